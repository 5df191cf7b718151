"""The networks of well-known MNIST articles in JAX and Flax, with each article's protocol."""
