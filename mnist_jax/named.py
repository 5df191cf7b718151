"""Frozen values that JSON names: an object with a `name` and the value's fields."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mnist_jax.errors import UsageError

_KINDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    Mapping: "an object",
}
# In float32, which numbers become.
LARGEST = (2 - 2**-23) * 2.0**127


@dataclass(frozen=True, kw_only=True)
class Named:
    """A value of a kind that has a name.

    A subclass gives `name` its default, and its own fields types that `checked` knows.

    Attributes:
      name: of the kind.

    Raises:
      UsageError: a field has a value of another type.
    """

    name: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for one in fields(self):
            try:
                value = checked(getattr(self, one.name), hints[one.name])
            except ValueError as error:
                self.refuse(one.name, str(error))
            object.__setattr__(self, one.name, value)

    def refuse(self, name: str, give: str) -> None:
        """Refuses a field's value.

        Args:
          name: the field's.
          give: what to give instead.

        Raises:
          UsageError: always.
        """
        raise UsageError(f"{name} of {self.name} is {getattr(self, name)!r}; give {give}.")


Kind = TypeVar("Kind", bound=Named)


def checked(value: Any, hint: Any) -> Any:
    """A value that JSON may have given, as its annotation has it.

    Args:
      value: what is given.
      hint: a type of `_KINDS`, one of these or None, a `Literal`, or any other type, of which
        nothing is asked.

    Returns:
      The same; a float for a whole number where one is asked for, so that both have one text.

    Raises:
      ValueError: it is of another type, or no number of float32; the message says what to give.
    """
    origin, choices = get_origin(hint) or hint, get_args(hint)
    if origin is Literal:
        if value not in choices:
            raise ValueError(f"{', '.join(choices[:-1])} or {choices[-1]}")
        return value
    if NoneType in choices:
        return None if value is None else checked(value, choices[0])
    if origin is float and isinstance(value, int | float) and type(value) is not bool:
        if abs(value) > LARGEST:
            raise ValueError("a number that float32 holds")
        value = float(value)
    if origin in _KINDS and (
        not isinstance(value, origin)
        or (type(value) is bool) != (origin is bool)
        or (origin is float and math.isnan(value))
    ):
        raise ValueError(_KINDS[origin])
    return value


def read(values: Any, kinds: Mapping[str, type[Kind]], where: str) -> tuple[Kind, ...]:
    """Reads a list of values, each of which may be one already.

    Args:
      values: what JSON gives, or what this function has given.
      kinds: that there are, by name.
      where: the list stands, to begin a sentence with.

    Raises:
      UsageError: it is no such list.
    """
    if not isinstance(values, list | tuple):
        raise UsageError(f'{where} is {values!r}; give a list such as [{{"name": ...}}].')
    return tuple(_read_one(value, kinds, where) for value in values)


def _read_one(value: Any, kinds: Mapping[str, type[Kind]], where: str) -> Kind:
    for kind in kinds.values():
        if isinstance(value, kind):
            return value
    if not isinstance(value, Mapping) or str(value.get("name")) not in kinds:
        raise UsageError(
            f'{where} has {value!r}; give {{"name": ...}} with one of {", ".join(kinds)}.'
        )
    kind = kinds[value["name"]]
    arguments = {name: one for name, one in value.items() if name != "name"}
    known = {one.name: one for one in fields(kind) if one.init}
    if unknown := sorted(set(arguments) - set(known)):
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise UsageError(f"{kind.name} has no argument {unknown[0]!r}; {has}.")
    try:
        return kind(**arguments)
    except TypeError as error:
        reason = str(error).rpartition("() ")[2]
        raise UsageError(f"{kind.name} is {reason}.") from error
