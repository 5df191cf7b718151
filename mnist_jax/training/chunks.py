"""How many images a device works on at a time, by what was measured on CPUs.

`multiply_adds_per_parameter` is always that of a network's forward pass over one image.
"""

import jax

# A CPU's devices share a step if it uses every parameter in so many multiplications; below, the
# exchange of gradients takes longer than what it saves.
_WORTH_SPLITTING = 100

# A CPU adds gradients up chunk by chunk if a chunk uses every parameter in so many
# multiplications; below, adding them up takes too large a part of the time.
_WORTH_ADDING_UP = 25

# Images a CPU core works on at a time: enough to fill its vectors, few enough for its cache.
_CPU_CHUNK = 16

# The same in an evaluation, where no gradients are waiting in the cache.
_CPU_EVALUATION_CHUNK = 40

# The same on an accelerator, and where a CPU's time goes into one large matrix product.
_EVALUATION_CHUNK = 1000

# Multiplications for one image from which on a CPU core gets its whole batch at once: with so many
# channels larger products gain more than the cache loses.
_LARGE_WORK = 10_000_000


def worth_splitting(batch_size: int, *, multiply_adds_per_parameter: float) -> bool:
    """Whether devices save time by sharing a batch."""
    work = batch_size * multiply_adds_per_parameter
    return jax.default_backend() != "cpu" or work >= _WORTH_SPLITTING


def chunk_size(batch_size: int, *, multiply_adds: int) -> int:
    """How many of a device's images make a chunk of `train_step`; divides `batch_size`.

    Args:
      batch_size: the images of a device.
      multiply_adds: of the network's forward pass over one image.
    """
    if jax.default_backend() != "cpu" or multiply_adds >= _LARGE_WORK:
        return batch_size
    divisors = (size for size in range(_CPU_CHUNK, 0, -1) if batch_size % size == 0)
    largest = next(divisors)
    # Tiny chunks would waste more on overhead than the cache saves.
    return largest if 2 * largest >= _CPU_CHUNK else batch_size


def evaluation_chunk(*, multiply_adds_per_parameter: float) -> int:
    """How many images a device evaluates at a time."""
    dense = multiply_adds_per_parameter <= 1  # None is used at two places of an image.
    cached = jax.default_backend() == "cpu" and not dense
    return _CPU_EVALUATION_CHUNK if cached else _EVALUATION_CHUNK


def side_by_side(chunk_size: int, *, multiply_adds_per_parameter: float) -> bool:
    """Whether chunks of so many images go through a network side by side, see `train_step`."""
    return chunk_size * multiply_adds_per_parameter < _WORTH_ADDING_UP
