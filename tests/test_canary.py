"""Guards against compilers that compute wrong numbers on the CPU."""

import jax
import jax.numpy as jnp


def _squared_norms(rows: jax.Array) -> jax.Array:
    identity = jnp.eye(3, dtype=rows.dtype)
    return jax.vmap(lambda row: jnp.sum((identity @ row) ** 2))(rows)


def test_jitted_matvec_reduction_matches_eager() -> None:
    # jaxlib 0.10.2 returned 1071645696 here once compiled (jax issue 39103): a vmapped
    # matrix-vector product followed by a reduction.
    n = 32_769
    rows = jnp.zeros((n, 3)).at[:, 0].set(jnp.arange(n, dtype=jnp.float32))
    assert float(_squared_norms(rows)[-1]) == 1073741824.0
    assert float(jax.jit(_squared_norms)(rows)[-1]) == 1073741824.0
