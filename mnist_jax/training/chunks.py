"""How many images a device processes at a time, from measurements on CPUs.

`multiply_adds_per_parameter` is always that of a network's forward pass over one image.
"""

import jax

# Multiplications per parameter in a step from which on a CPU's devices share the step; below this,
# exchanging the gradients takes longer than it saves.
_WORTH_SPLITTING = 100

# Multiplications per parameter in a chunk from which on a CPU accumulates gradients chunk by chunk;
# below this, adding them takes too large a part of the time.
_WORTH_ADDING_UP = 25

# Images a CPU core processes at a time: enough to fill its vectors, few enough for its cache.
_CPU_CHUNK = 16

# The same in an evaluation, where the cache holds no gradients.
_CPU_EVALUATION_CHUNK = 40

# The same on an accelerator, and for networks that are one large matrix product on a CPU.
_EVALUATION_CHUNK = 1000

# Multiplications per image from which on a CPU core gets its whole batch at once: with that many
# channels, larger products gain more than cache misses cost.
_LARGE_WORK = 10_000_000


def worth_splitting(batch_size: int, *, multiply_adds_per_parameter: float) -> bool:
    """Whether devices save time by sharing a batch."""
    work = batch_size * multiply_adds_per_parameter
    return jax.default_backend() != "cpu" or work >= _WORTH_SPLITTING


def chunk_size(batch_size: int, *, multiply_adds: int) -> int:
    """The number of a device's images in a chunk of `train_step`; divides `batch_size`.

    Args:
      batch_size: images per device.
      multiply_adds: of the network's forward pass over one image.
    """
    if jax.default_backend() != "cpu" or multiply_adds >= _LARGE_WORK:
        return batch_size
    divisors = (size for size in range(_CPU_CHUNK, 0, -1) if batch_size % size == 0)
    largest = next(divisors)
    # Tiny chunks would waste more on overhead than the cache saves.
    return largest if 2 * largest >= _CPU_CHUNK else batch_size


def evaluation_chunk(*, multiply_adds_per_parameter: float) -> int:
    """The number of images that a device evaluates at a time."""
    dense = multiply_adds_per_parameter <= 1  # No weight is shared between places in an image.
    cached = jax.default_backend() == "cpu" and not dense
    return _CPU_EVALUATION_CHUNK if cached else _EVALUATION_CHUNK


def side_by_side(chunk_size: int, *, multiply_adds_per_parameter: float) -> bool:
    """Whether chunks of this size go through a network side by side; see `train_step`."""
    return chunk_size * multiply_adds_per_parameter < _WORTH_ADDING_UP
