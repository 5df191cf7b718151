"""The registry of networks: class, published result and the article's protocol, by name."""

import difflib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from flax import nnx

from mnist_jax.errors import UsageError
from mnist_jax.models.layers import Network
from mnist_jax.recipe import Recipe

T = TypeVar("T", bound=type[Network])


@dataclass(frozen=True)
class Entry:
    """A registered network.

    Attributes:
      network: the class.
      recipe: its article's whole protocol.
      article: the source of network and protocol.
      published: the accuracy reported there, as printed.
      torch_names: if the names in the author's PyTorch `state_dict` differ from ours, the layer of
        each prefix, in the order of the file.
    """

    network: type[Network]
    recipe: Recipe
    article: str
    published: str
    torch_names: Mapping[str, str]


_ENTRIES: dict[str, Entry] = {}


def register(
    recipe: Recipe,
    *,
    article: str,
    published: str,
    torch_names: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[T], T]:
    """Registers the decorated network as `recipe.model`; the other arguments are `Entry`'s.

    Raises:
      ValueError: the name is taken.
    """

    def enter(network: T) -> T:
        if recipe.model in _ENTRIES:
            raise ValueError(f"A network named {recipe.model!r} is already registered.")
        _ENTRIES[recipe.model] = Entry(network, recipe, article, published, torch_names)
        return network

    return enter


def model_names() -> list[str]:
    """The names of all networks, in alphabetical order."""
    return sorted(_ENTRIES)


def model_entry(name: str) -> Entry:
    """The registry's entry of a network: class, protocol, article, published accuracy.

    Raises:
      UsageError: the name is unknown; the message suggests a similar one.
    """
    if name not in _ENTRIES:
        raise unknown_model(name, model_names())
    return _ENTRIES[name]


def unknown_model(name: str, known: Sequence[str]) -> UsageError:
    """The error that a name is not one of the known ones; suggests a similar one."""
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? The" if close else "the"
    return UsageError(f"There is no model {name!r}; {hint} models are {', '.join(known)}.")


def create_model(name: str, /, *, rngs: nnx.Rngs, **overrides: Any) -> Network:
    """Makes a documented network with fresh parameters.

    Args:
      name: one of `model_names()`.
      rngs: the stream `params` gives the initial values.
      **overrides: arguments of the network's constructor.

    Returns:
      A module from images [N, 28, 28, 1] to logits [N, 10], in training mode.

    Raises:
      UsageError: the name or an argument is unknown, or a value is invalid.

    Example:
      >>> network = create_model("lenet", pooling="max", channels=[4, 8], rngs=nnx.Rngs(0))
      >>> network.layer_names[:3]
      ('conv1', 'act1', 'pool1')
      >>> network.conv2.kernel.shape
      (5, 5, 4, 8)
    """
    return _constructor(name, overrides)(rngs=rngs, **overrides)


def abstract_model(name: str, /, **overrides: Any) -> Network:
    """Like `create_model`, but with a `jax.ShapeDtypeStruct` in place of every array.

    Raises:
      UsageError: as from `create_model`.
    """
    network = _constructor(name, overrides)
    return nnx.eval_shape(lambda: network(rngs=nnx.Rngs(params=0), **overrides))


def _constructor(name: str, overrides: Mapping[str, Any]) -> Callable[..., Network]:
    """The network's class, after checking that it accepts these arguments."""
    network = model_entry(name).network
    accepted = dict(inspect.signature(network.__init__).parameters)
    del accepted["self"], accepted["rngs"]
    for argument, value in overrides.items():
        if argument not in accepted:
            takes = ", ".join(accepted) or "none"
            raise UsageError(f"{name} takes no argument {argument!r}; it takes {takes}.")
        default = accepted[argument].default
        if not _is_like(value, default):
            raise UsageError(
                f"{name}'s {argument} is {value!r}; give a value like {json.dumps(default)}."
            )
    return network


def _is_like(value: object, default: object) -> bool:
    """Whether a value has a default's type; whole numbers are sizes, positive and below 2^31."""
    match default:
        case tuple():
            if not isinstance(value, Sequence) or isinstance(value, str):
                return False
            return all(_is_like(element, default[0]) for element in value)
        case float():
            return isinstance(value, int | float) and not isinstance(value, bool)
        case int() if not isinstance(default, bool):
            return type(value) is int and 0 < value < 2**31
    return isinstance(value, type(default))
