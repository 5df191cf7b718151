"""A flag for every field of a recipe."""

from typing import Any

from absl import flags

from mnist_jax.recipe import options

# Where they come from is a question of its own: a registry, a JSON object, a search for files.
_ELSEWHERE = ("model", "model_args", "dataset")


def define() -> list[flags.FlagHolder[Any]]:
    """Defines a flag for every field of a recipe that is a plain value; unset by default."""
    define: dict[type, Any] = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
        str: flags.DEFINE_string,
    }
    return [
        flags.DEFINE_enum(option.name, None, option.choices, option.what)
        if option.choices
        else define[option.type](option.name, None, option.what)
        for option in options()
        if option.name not in _ELSEWHERE
    ]
