"""Lists the commands: `python -m mnist_jax`."""

import ast
import os
import sys
from pathlib import Path

from mnist_jax.errors import UsageError
from mnist_jax.files import unwritable
from mnist_jax.version import __version__


def main() -> None:
    """Prints every command with the first line of what it says of itself.

    Exits with 2 where something else was asked for, such as a command after a space.
    """
    mistaken = set(sys.argv[1:]) - {"--version", "--help", "-h"}
    lines = [f"mnist_jax {__version__}"]
    if "--version" not in sys.argv:
        lines += ["", "Commands, each with --help:"]
        for path in sorted(Path(__file__).parent.glob("*.py")):
            text = path.read_text()
            # Judged by its text, because importing a command takes seconds.
            if path.name != "__main__.py" and 'if __name__ == "__main__":' in text:
                about = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
                lines.append(f"  python -m mnist_jax.{path.stem:<10} {about.split(':')[0]}")
    try:
        # Not by a stream, which would try again at the end.
        os.write(2 if mistaken else 1, ("\n".join(lines) + "\n").encode())
    except BrokenPipeError:
        pass
    except OSError as error:
        if not mistaken:
            sys.exit(str(unwritable("The list", error, "place for it")))
    sys.exit(UsageError.exit_code if mistaken else 0)


if __name__ == "__main__":
    main()
