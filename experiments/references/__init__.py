"""The articles' own programs, written independently of `mnist_jax`, to compare it with."""
