"""Networks as StableHLO, by `jax.export`."""

import jax
import jax.numpy as jnp
from jax import export

from mnist_jax.inputs import evaluation_inputs
from mnist_jax.kernels.differentiation import differentiable
from mnist_jax.models.layers import Network
from mnist_jax.recipe import Recipe

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def to_stablehlo(network: Network, recipe: Recipe, *, pixels: bool) -> bytes:
    """Exports a network for `jax.export.deserialize`, for any number N of images.

    It runs on CPU, GPU and TPU without this package, and can't be differentiated. JAX guarantees
    that its releases from three weeks before to six months after the one that wrote it can read it.

    Args:
      network: a network in evaluation mode.
      recipe: the recipe that it was trained with.
      pixels: whether images are uint8 [N, 28, 28], as in datasets; otherwise they are float32
        [N, 28, 28], already normalised. Logits are float32 [N, 10].
    """

    def logits(images: jax.Array) -> jax.Array:
        return network(evaluation_inputs(recipe, images) if pixels else images[..., None])

    (count,) = export.symbolic_shape("N")
    images = jax.ShapeDtypeStruct((count, 28, 28), jnp.uint8 if pixels else jnp.float32)
    # XLA's own operations, which are fast on every platform.
    with differentiable():
        exported = export.export(jax.jit(logits), platforms=_PLATFORMS)(images)
    return bytes(exported.serialize())
