"""Lists the commands: `python -m mnist_jax`, and runs them: `mnist-jax train ...`."""

import ast
import os
import sys
from pathlib import Path

from mnist_jax.errors import UsageError
from mnist_jax.files import unwritable
from mnist_jax.version import __version__


def main() -> None:
    """Becomes the command that is named, or prints every one with what it says of itself.

    Exits with 2 where something else was asked for.
    """
    # Judged by its text, because importing a command takes seconds.
    commands = {
        path.stem: text
        for path in sorted(Path(__file__).parent.glob("*.py"))
        if 'if __name__ == "__main__":' in (text := path.read_text()) and path.stem != "__main__"
    }
    if sys.argv[1:] and sys.argv[1] in commands:
        # In this process's place, so that signals and the terminal are the command's alone.
        command = [sys.executable, "-m", f"mnist_jax.{sys.argv[1]}", *sys.argv[2:]]
        os.execv(sys.executable, command)
    mistaken = set(sys.argv[1:]) - {"--version", "--help", "-h"}
    lines = [f"mnist_jax {__version__}"]
    if sys.argv[1:] and sys.argv[1] in mistaken:
        lines = [f"There is no command {sys.argv[1]!r}.", *lines]
    if "--version" not in sys.argv:
        lines += ["", "Commands, each with --help:"]
        for name, text in commands.items():
            about = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
            lines.append(f"  python -m mnist_jax.{name:<10} {about.split(':')[0]}")
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
