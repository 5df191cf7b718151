"""What all commands share: flags, exit codes and one-sentence error messages."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from absl import app, flags
from absl import logging as absl_logging

from mnist_jax import hosts
from mnist_jax.cli import starting, streams
from mnist_jax.errors import Failure, Interrupted, UsageError
from mnist_jax.files import expanded, parse_json
from mnist_jax.version import __version__

starting.begin()  # Before a command imports the rest.

# Before JAX is imported: loading a compiled program from the cache makes XLA log an error about
# "+prefer-no-gather", which is a compiler preference, not a feature that the processor lacks.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# So that --help lists a path flag under the command that defines it.
flags.disclaim_key_flags()

# How JAX reports that a device is out of memory: for an array, and, after "INTERNAL:", a program.
_EXHAUSTED = ("RESOURCE_EXHAUSTED: ", "Out of memory")
_HELP = ("--help", "-help", "-h", "--helpshort", "--helpfull")


def run(main: Callable[[Sequence[str]], None], *, operands: bool = False) -> None:
    """Parses the flags, calls main, and exits: 0, 1 on failure, 2 on misuse, 130 on Ctrl-C.

    With --help or -h it prints the command's flags instead, with --version the version.

    Args:
      main: called with the program's name and the operands.
      operands: whether arguments that are not flags are allowed, in any position.
    """
    starting.end()
    absl_logging.use_absl_handler()  # Before the streams it identifies handlers by are replaced.
    streams.guard()
    handler = absl_logging.get_absl_handler()
    handler.python_handler.setStream(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    # Orbax logs every file it touches; what matters is raised as exceptions.
    handler.addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
    logging.getLogger("jax").setLevel(logging.ERROR)  # It reports every backend it lacks.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # It logs its search for fonts.
    try:
        if flag := next((a for a in sys.argv[1:] if a in ("--version", *_HELP)), None):
            sys.stdout.write(f"mnist_jax {__version__}\n" if flag == "--version" else _help(main))
            streams.delivered()
            return
        app.run(main, flags_parser=_parse_with_operands if operands else _parse)
    except Interrupted as error:
        # All processes end this way, the first one last.
        sys.stderr.write(f"{error}\n" if hosts.is_first() else "")
        sys.exit(error.exit_code)
    except Failure as error:
        end(str(error), error.exit_code)
    except KeyboardInterrupt:
        end("Interrupted.", 130)
    except OSError as error:
        if not error.filename:
            raise
        end(f"{os.fsdecode(error.filename)}: {error.strerror}; give another path.", 1)
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if lost := hosts.lost_process_message(text):
            end(lost, 1)
        if isinstance(error, RuntimeError) and not any(words in text for words in _EXHAUSTED):
            raise
        reason = text.partition("\n")[0].rpartition(": ")[2] or "Out of memory"
        end(
            f"{reason.rstrip('.')}; use a smaller network or batch, or a device with more memory.",
            1,
        )


Default = TypeVar("Default", Path, None)


class _PathParser(flags.ArgumentParser[Path]):
    def parse(self, argument: str | Path) -> Path:
        if not str(argument):
            raise ValueError("give a path.")
        try:
            return expanded(argument)
        except UsageError as error:
            raise ValueError(str(error)) from error


def define_path(name: str, default: Default, what: str) -> flags.FlagHolder[Path | Default]:
    """Defines a flag for a path, in which `~` is expanded."""
    serializer = flags.ArgumentSerializer[Path]()
    return flags.DEFINE(_PathParser(), name, default, what, serializer=serializer)


def json_object(flag: flags.FlagHolder[str | None]) -> dict[str, Any]:
    """Reads a flag that holds a JSON object; {} if the flag is absent.

    Raises:
      UsageError: it holds anything else.
    """
    if flag.value is None:
        return {}
    try:
        values = parse_json(flag.value)
    except ValueError as error:
        raise UsageError(f"--{flag.name} is not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise UsageError(f'--{flag.name} is not a JSON object; give {{"name": value, ...}}.')
    return values


def _help(main: Callable[[Sequence[str]], None]) -> str:
    """The command's description, and its flags without those of every absl program."""
    modules = flags.FLAGS.flags_by_module_dict()
    own = [flags.FLAGS.module_help(name) for name in modules if not name.startswith("absl.")]
    about = sys.modules["__main__"].__doc__ or main.__doc__ or ""
    return about.strip() + "\n" + "".join(own) + "\n"


def _parse(arguments: Sequence[str]) -> Sequence[str]:
    rest = _parse_with_operands(arguments)
    if len(rest) > 1:
        end(f"{rest[1]!r} is not a flag; flags begin with --.", UsageError.exit_code)
    return rest


def _parse_with_operands(arguments: Sequence[str]) -> Sequence[str]:
    flags.FLAGS.set_gnu_getopt(True)  # Flags may follow operands.
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        if hosts.launched_as():
            sys.exit(UsageError.exit_code)  # All have the same command; the first one reports it.
        end(f"{str(error).rstrip('.')}. See --help.", UsageError.exit_code)


def end(sentence: str, code: int) -> NoReturn:
    """Ends the command and the other processes of its run; only one of them prints the message."""
    if hosts.announce_end(code):
        sys.stderr.write(sentence.strip() + "\n")
    hosts.leave(code)
    sys.exit(code)
