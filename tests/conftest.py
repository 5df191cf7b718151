"""Settings every test runs under: eight virtual CPU devices, strict dtype and rank promotion."""

import os
from pathlib import Path

# Before JAX is imported: a compiled program from the cache makes XLA log that the processor lacks
# "+prefer-no-gather", which is a preference of the compiler and no feature of any processor.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax
import pytest

# Before the backend starts: the data-parallel tests need several devices.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    # Compilation is most of the suite's time, and tests compile the same programs again.
    cache = Path(config.rootpath) / ".pytest_cache" / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
