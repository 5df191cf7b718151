"""Settings every test runs under: eight virtual CPU devices, strict dtype and rank promotion."""

import jax

# Before the backend starts: the data-parallel tests need several devices.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
