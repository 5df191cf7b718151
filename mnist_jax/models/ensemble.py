"""Several networks that vote, as one layer."""

import math
from collections.abc import Sequence
from operator import itemgetter

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from mnist_jax.models.layers import Network


class Ensemble(nnx.Module):
    """Networks that vote by the mean of their probabilities, for evaluation.

    Args:
      members: networks with the same layers, whose outputs are logits.
    """

    def __init__(self, members: Sequence[Network]):
        graphs, states = zip(*map(nnx.split, members), strict=True)
        # Stacked, because a loop over them is compiled as fast as one network.
        self.stacked = nnx.merge(graphs[0], jax.tree.map(lambda *a: jnp.stack(a), *states))
        self.size = len(members)

    def members(self) -> list[Network]:
        """The networks."""
        graph, state = nnx.split(self.stacked)
        states = (jax.tree.map(itemgetter(index), state) for index in range(self.size))
        return [nnx.merge(graph, one) for one in states]

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images [N, 28, 28, 1] to logits [N, 10], whose softmax is the mean of the members'."""
        graph, state = nnx.split(self.stacked)
        votes = lax.map(lambda one: nnx.log_softmax(nnx.merge(graph, one)(images)), state)
        return nnx.logsumexp(votes, axis=0) - math.log(self.size)
