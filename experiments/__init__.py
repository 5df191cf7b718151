"""The articles as scripts, the programs they are compared with, and the benchmark."""

# First, because it quiets XLA, which has to happen before JAX is imported.
import mnist_jax.cli  # noqa: F401
