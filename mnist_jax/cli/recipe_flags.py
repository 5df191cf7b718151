"""Flags for the fields of a recipe."""

from typing import Any

from absl import flags

from mnist_jax.files import parse_json
from mnist_jax.recipe import options

# Defined by the commands: they need a registry, a JSON object or a search for files.
_ELSEWHERE = ("model", "model_args", "dataset")


class _JsonParser(flags.ArgumentParser[Any]):
    def parse(self, argument: str) -> Any:
        try:
            value = parse_json(argument)
        except ValueError as error:
            raise ValueError(f"it is not JSON ({error}).") from error
        if value is None:  # It would count as an absent flag.
            raise ValueError("it is null; [] is an empty list.")
        return value


def _define_json(name: str, default: None, what: str) -> flags.FlagHolder[Any]:
    return flags.DEFINE(_JsonParser(), name, default, what)


def define() -> list[flags.FlagHolder[Any]]:
    """Defines a flag, unset by default, for every field of a recipe that is a value or a list."""
    define: dict[type, Any] = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
        str: flags.DEFINE_string,
        tuple: _define_json,
    }
    return [
        flags.DEFINE_enum(option.name, None, option.choices, option.what)
        if option.choices
        else define[option.type](option.name, None, option.what)
        for option in options()
        if option.name not in _ELSEWHERE
    ]
