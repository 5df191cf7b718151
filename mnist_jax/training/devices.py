"""Device selection, placement of arrays and compilation over a mesh of devices."""

import contextlib
import math
import os
import platform
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mnist_jax import hosts
from mnist_jax.errors import UsageError
from mnist_jax.training import compiled

# The variable from which XLA takes the number of threads that a CPU's devices share; without it,
# XLA counts the cores.
_THREADS = "PJRT_NPROC"

# A container's memory limit under cgroup v2 and v1.
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def configure_process(cache_dir: Path, like: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Configures JAX for a command, before any device is touched; libraries never call this.

    On a CPU every core becomes a device, which trains small convolutional networks faster than
    several threads inside every operation. Compiled programs are kept in `cache_dir`.

    Args:
      cache_dir: the compilation cache's folder; need not exist.
      like: the result of `describe` when a run began, if it is to be resumed. The number of devices
        and threads is then kept, because the order of summation determines the last digits.
    """
    threads = like.get("threads") or cores()
    os.environ.setdefault(_THREADS, str(threads))
    jax.config.update("jax_num_cpu_devices", threads)
    compiled.keep_in(cache_dir)


def cores() -> int:
    """The number of CPU cores that the process may use."""
    if hasattr(os, "sched_getaffinity"):  # Not on macOS.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def refuse_lack_of_memory(what: str, on_devices: int, on_host: int) -> None:
    """Raises if less memory is available than is needed at least.

    Args:
      what: what needs it, as a subject in the plural.
      on_devices: bytes, on all devices together.
      on_host: bytes, in addition to these if the devices are the host's cores.

    Raises:
      UsageError: there is less.
    """
    used = jax.local_devices()
    platform = used[0].platform
    on_devices = math.ceil(on_devices / jax.process_count())  # Each process has its share.
    if platform == "cpu":
        places = [(platform, on_devices + on_host, _host_memory())]
    else:
        stats = [device.memory_stats() or {} for device in used]
        each = [one.get("bytes_limit", math.inf) for one in stats]  # Not every kind reports it.
        places = [(platform, on_devices, sum(each)), ("the host", on_host, _host_memory())]
    for place, needed, there in places:
        if needed > there:
            raise UsageError(
                f"{what} need about {needed / 2**30:,.1f} GiB, but {place} has"
                f" {there / 2**30:,.1f} GiB for them; give fewer, or train them one after another."
            )


def _host_memory() -> int:
    """The bytes that this process may use, regardless of what others currently use."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # There is no limit, or it is "max".
            memory = min(memory, int(limit.read_text()))
    return memory


def make_mesh(
    num_seeds: int,
    batch_sizes: Collection[int],
    num_devices: int | None = None,
    *,
    split_batches: bool = True,
    parts: int | None = None,
) -> Mesh:
    """Makes a ('seed', 'data') mesh: seeds side by side, the batches of each one split.

    Args:
      num_seeds: how many seeds train together.
      batch_sizes: the sizes of all batches, including a smaller last one; empty if batches are
        padded to a divisible size.
      num_devices: how many devices to use; by default as many as can share the work evenly. Given
        the choice, devices are assigned to seeds rather than to parts of a batch. All processes
        contribute the same number.
      split_batches: whether devices may share a batch.
      parts: how many devices share a batch, if that many are available; overrides the other
        arguments.

    Raises:
      UsageError: there are fewer devices, or a batch does not divide.
    """
    devices = jax.devices()
    # Every process takes part with as many as the one that has the fewest.
    of_processes = Counter(device.process_index for device in devices)
    available = len(of_processes) * min(of_processes.values())
    count = num_devices or available
    if not 0 < count <= available:
        raise UsageError(
            f"num_devices is {num_devices}, but there are {available} devices"
            f" ({devices[0].platform}); give 1 to {available}."
        )
    processes = jax.process_count()
    choices = _divisors(math.gcd(*batch_sizes), count)
    given = parts in choices
    if parts in choices:
        choices = [parts]
    elif not split_batches:
        choices = [1]
    by_seed, by_data = max(
        (
            (a, b)
            for a in _divisors(num_seeds, count)
            for b in choices
            if a * b <= count and a * b % processes == 0
        ),
        key=lambda shape: (math.prod(shape), shape),
        default=(1, 1),
    )
    if by_seed * by_data % processes:
        sizes = " and ".join(str(size) for size in sorted(batch_sizes, reverse=True))
        raise UsageError(
            f"Batches of {sizes} images of {num_seeds} seeds do not divide over {processes}"
            " processes; give a batch_size or a num_seeds that does, or fewer processes."
        )
    if num_devices and not given and by_seed * by_data < num_devices:
        sizes = " and ".join(str(size) for size in sorted(batch_sizes, reverse=True))
        whose = f" of {num_seeds} seeds" if num_seeds > 1 else ""
        raise UsageError(
            f"Batches of {sizes} images{whose} do not divide over {num_devices} devices;"
            f" give a batch_size that does, or num_devices={by_seed * by_data}."
        )
    return jax.make_mesh(
        (by_seed, by_data),
        ("seed", "data"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=_of_every_process(devices, by_seed * by_data // processes),
    )


def _of_every_process(devices: Sequence[jax.Device], count: int) -> list[jax.Device]:
    """The first `count` devices of every process, grouped by process."""
    places: dict[int, list[jax.Device]] = {}
    for device in devices:
        places.setdefault(device.process_index, []).append(device)
    return [device for place in sorted(places) for device in places[place][:count]]


def place(tree: Any, mesh: Mesh, spec: P) -> Any:
    """Places arrays, which must be the same in every process, on a mesh."""
    sharding = NamedSharding(mesh, spec)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def of(array: Any) -> jax.Array:
        if not isinstance(array, np.ndarray) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            keys: jax.Array = jax.random.wrap_key_data(of(jax.random.key_data(array)))
            return keys
        local = np.asarray(array)
        return jax.make_array_from_callback(local.shape, sharding, lambda index: local[index])

    return jax.tree.map(of, tree)


def fetch(tree: Any, mesh: Mesh) -> Any:
    """Gathers arrays on a mesh into whole NumPy arrays in every process."""
    everywhere = NamedSharding(mesh, P())
    if not all(
        leaf.is_fully_replicated or leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)
    ):
        jax.block_until_ready(tree)
        hosts.barrier()
        tree = jax.jit(_same, out_shardings=everywhere)(tree)
    return jax.device_get(tree)


def broadcast(tree: Any) -> Any:
    """Sends the first process's NumPy arrays to all; every process passes the same shapes."""
    if jax.process_count() == 1:
        return tree
    hosts.barrier()
    leaves, structure = jax.tree.flatten(tree)
    # As bytes, because JAX broadcasts by adding zeros, which would change -0.0.
    content = np.concatenate([np.frombuffer(leaf.tobytes(), np.uint8) for leaf in leaves])
    content = np.asarray(multihost_utils.broadcast_one_to_all(content))
    ends = np.cumsum([leaf.nbytes for leaf in leaves])
    parts = np.split(content, ends[:-1])
    whole = [
        np.frombuffer(part.tobytes(), leaf.dtype).reshape(leaf.shape)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, whole)


def _same(tree: Any) -> Any:
    return tree  # At the top level, so that it is compiled once.


def _divisors(number: int, most: int) -> list[int]:
    return [d for d in range(1, most + 1) if number % d == 0]


def compile_over_seeds(
    function: Callable[..., Any],
    mesh: Mesh,
    *,
    in_specs: tuple[P, ...],
    out_specs: P | tuple[P, ...],
    donate: tuple[int, ...] = (),
) -> Any:
    """Compiles a function of one seed's arrays into one of all seeds' arrays on a mesh.

    A CPU processes a device's seeds one after another, which keeps one seed's arrays in its cache;
    an accelerator processes them together.

    Args:
      function: takes first one seed's arrays, whose `in_specs` begin with `seed`, then shared ones.
      mesh: from `make_mesh`.
      in_specs: how the arguments are partitioned over the mesh.
      out_specs: how the results are partitioned; all have a leading axis of seeds.
      donate: indices of arguments whose memory the results may reuse.
    """
    count = sum(spec[:1] == ("seed",) for spec in in_specs)

    def of_all_seeds(*arguments: Any) -> Any:
        by_seed, shared = arguments[:count], arguments[count:]
        if jax.default_backend() == "cpu":
            return lax.map(lambda one: function(*one, *shared), by_seed)
        return jax.vmap(lambda *one: function(*one, *shared))(*by_seed)

    mapped = jax.shard_map(
        of_all_seeds, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return jax.jit(mapped, donate_argnums=donate)


def data_axis(mesh: Mesh) -> str | None:
    """The name of the axis that batches are split over; None if they are not split."""
    return "data" if mesh.shape["data"] > 1 else None


def describe(mesh: Mesh) -> dict[str, Any]:
    """Describes the hardware of a run: platform, device kind, the mesh's shape, and threads.

    The threads are those of XLA's pool, which a CPU's devices share. A CPU's processor is named,
    because XLA compiles for it.
    """
    device = mesh.devices.flat[0]
    what = {"platform": device.platform, "kind": device.device_kind, "mesh": dict(mesh.shape)}
    if device.platform == "cpu":
        what["processor"] = processor()
        what["threads"] = max(int(os.environ.get(_THREADS) or cores()), jax.local_device_count())
    if jax.process_count() > 1:
        what["processes"] = jax.process_count()
    return what


def processor() -> str:
    """The processor's model name if the system gives it, otherwise its architecture."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
