"""Guards against compiler bugs that give wrong numbers on CPUs."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from mnist_jax.kernels.xla_cpu import channel_sums


def _squared_norms(rows: jax.Array) -> jax.Array:
    identity = jnp.eye(3, dtype=rows.dtype)
    return jax.vmap(lambda row: jnp.sum((identity @ row) ** 2))(rows)


def test_jitted_matvec_reduction_matches_eager() -> None:
    # When compiled by jaxlib 0.10.2, this vmapped matrix-vector product with a reduction returns
    # 1071645696 (JAX issue 39103).
    n = 32_769
    rows = jnp.zeros((n, 3)).at[:, 0].set(jnp.arange(n, dtype=jnp.float32))
    assert float(_squared_norms(rows)[-1]) == 1073741824.0
    assert float(jax.jit(_squared_norms)(rows)[-1]) == 1073741824.0


@pytest.mark.parametrize("shape", [(32, 14, 14, 100), (64, 7, 7, 100), (37, 13, 11, 61)])
def test_jitted_channel_sums_leave_nothing_out(shape: tuple[int, ...]) -> None:
    # Compiled by jaxlib 0.10.1, a float32 sum over the second axis and then over the others was one
    # program that left out up to half of the elements: 2632 of 4900 of the second shape.
    images = jnp.ones((2, *shape))
    expected = jnp.full((2, shape[0]), images[0, 0].size)
    for sums in (jax.vmap(channel_sums), lambda x: lax.map(channel_sums, x)):
        assert (jax.jit(sums)(images) == expected).all()
    assert (jax.jit(channel_sums)(images[0]) == expected[0]).all()
