"""Lists the commands: `python -m mnist_jax`, and runs them: `mnist-jax train ...`."""

import ast
import os
import sys
from pathlib import Path

from mnist_jax.errors import UsageError
from mnist_jax.files import unwritable
from mnist_jax.version import __version__


def main() -> None:
    """Executes the given command, or lists all commands with their summaries.

    Exits with 2 on an unknown command or argument.
    """
    # Found in the source text, because importing a command takes seconds.
    commands = {
        path.stem: text
        for path in sorted(Path(__file__).parent.glob("*.py"))
        if 'if __name__ == "__main__":' in (text := path.read_text()) and path.stem != "__main__"
    }
    if sys.argv[1:] and sys.argv[1] in commands:
        # Replaces this process, so that signals and the terminal belong to the command alone.
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
            about = about.partition(":")[0].removesuffix(".")
            lines.append(f"  python -m mnist_jax.{name:<10} {about}.")
    try:
        # Not through a stream, which would try again at exit.
        os.write(2 if mistaken else 1, ("\n".join(lines) + "\n").encode())
    except BrokenPipeError:
        pass
    except OSError as error:
        if not mistaken:
            sys.exit(str(unwritable("The list", error, "place for it")))
    sys.exit(UsageError.exit_code if mistaken else 0)


if __name__ == "__main__":
    main()
