"""Guards against compiler bugs that give wrong numbers on CPUs."""

import jax
import jax.numpy as jnp


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
