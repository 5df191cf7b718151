"""Frozen values read from JSON: an object with a `name` and the value's fields."""

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
# The largest float32, to which numbers are converted.
LARGEST = (2 - 2**-23) * 2.0**127


@dataclass(frozen=True, kw_only=True)
class Named:
    """Base class of values that JSON identifies by name.

    A subclass sets the default of `name`, and gives its own fields types that `checked` knows.

    Attributes:
      name: the name of the subclass in JSON.

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
        """Rejects a field's value.

        Args:
          name: the field's name.
          give: what to give instead.

        Raises:
          UsageError: always.
        """
        raise UsageError(f"{name} of {self.name} is {getattr(self, name)!r}; give {give}.")


Kind = TypeVar("Kind", bound=Named)


def checked(value: Any, hint: Any) -> Any:
    """Checks a value, which may come from JSON, against its annotation.

    Args:
      value: the value.
      hint: a type in `_KINDS`, one of these or None, a `Literal`, or any other type, which is not
        checked.

    Returns:
      The value; where the annotation is float, a whole number becomes a float, so that both are
      written alike.

    Raises:
      ValueError: it has another type, or is outside float32's range; the message says what to give.
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
            raise ValueError("a number that float32 can represent")
        value = float(value)
    if origin in _KINDS and (
        not isinstance(value, origin)
        or (type(value) is bool) != (origin is bool)
        or (origin is float and math.isnan(value))
    ):
        raise ValueError(_KINDS[origin])
    return value


def read(values: Any, kinds: Mapping[str, type[Kind]], where: str) -> tuple[Kind, ...]:
    """Reads a list of named values; items that are already of one of the kinds are kept.

    Args:
      values: the list from JSON, or an earlier result of this function.
      kinds: the classes to choose from, by name.
      where: the name of the field that has the list, which begins the error message.

    Raises:
      UsageError: it is not such a list.
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
