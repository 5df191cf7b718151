"""The benchmark's own side: this project, and the matrix product as its reference."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.contenders.exchanges import statistics
from experiments.contenders.job import ALL_REDUCE, AUGMENTED, HOSTS, MATMUL, Job, Work, share_gpu
from mnist_jax import hosts
from mnist_jax.data import Dataset
from mnist_jax.files import cache_folder
from mnist_jax.models import abstract_model, model_entry
from mnist_jax.recipe import Recipe
from mnist_jax.training import devices
from mnist_jax.training.step import mean_over_devices
from mnist_jax.training.trainer import Trainer
from mnist_jax.transforms import Affine

# Side of the matrices that measure the peak.
_SIDE = 1024


def build(job: Job, dataset: Dataset) -> Work:
    """Makes the work of one of our variants or of the peak; the dataset has whole batches only."""
    share_gpu()
    is_host = job.variant in (*HOSTS, ALL_REDUCE)
    if is_host:
        jax.config.update("jax_platforms", "cpu")
        if job.address:
            hosts.connect(job.address, 2, job.place)
    # Not pinned to one core each: that would measure compute and network threads taking turns.
    devices.configure_process(cache_folder() / "compiled", {"threads": 1} if is_host else {})
    if job.variant == MATMUL:
        return _matmul()
    return _all_reduce(job.recipe) if job.variant == ALL_REDUCE else _ours(job, dataset)


def augmented(recipe: Recipe) -> Recipe:
    """A recipe with its network's own augmentation, or source H's if it has none."""
    own = model_entry(recipe.model).recipe.augmentation
    return dataclasses.replace(recipe, augmentation=own or (Affine(),))


def _ours(job: Job, dataset: Dataset) -> Work:
    """The work of the training command between two progress reports, or of an evaluation."""
    num_devices = {"ours-one-device": 1, "ours-all-devices": jax.device_count()}
    trainer = Trainer(
        augmented(job.recipe) if job.variant == AUGMENTED else job.recipe,
        dataset,
        seeds=range(job.seeds),
        num_devices=num_devices.get(job.variant),
    )

    def train(steps: int) -> float:
        end = trainer.step + steps
        while trainer.step < end:
            trainer.advance(end - trainer.step)
        return steps * job.recipe.batch_size * job.seeds / hosts.count()

    def evaluate(steps: int) -> float:
        for _ in range(steps):
            trainer.logits(dataset.test.images)
        return steps * len(dataset.test) * job.seeds

    return evaluate if job.task == "evaluate" else train


def _matmul() -> Work:
    """Float32 matrix products on all devices at once; counts floating-point operations."""
    mesh = jax.make_mesh((jax.device_count(),), ("device",))
    shape = (jax.device_count(), _SIDE, _SIDE)
    x = jax.device_put(np.ones(shape, np.float32), NamedSharding(mesh, P("device")))
    # Averages the rows, so that any number of products stays finite.
    mean = jnp.full((_SIDE, _SIDE), 1 / _SIDE)

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(P("device"), P(), P()), out_specs=P("device"))
    def multiply(x: jax.Array, mean: jax.Array, steps: int) -> jax.Array:
        return lax.fori_loop(0, steps, lambda _, x: x @ mean, x)

    def run(steps: int) -> float:
        multiply(x, mean, steps).block_until_ready()
        return steps * shape[0] * 2.0 * _SIDE**3

    return run


def _all_reduce(recipe: Recipe) -> Work:
    """Repeats the all-reduces of a step; counts the repetitions."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    network = abstract_model(recipe.model, **recipe.model_args)
    gradients = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), gradients)
    zeros = zeros, [np.zeros(channels, np.float32) for channels in statistics(network)]

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    def add_up(tree: Any, steps: int) -> Any:
        def step(_: int, tree: Any) -> Any:
            gradients, moments = tree
            # In a network each depends on the previous one, so they run in sequence.
            means, last = [], jnp.zeros(())
            for values in moments:
                means.append(lax.pmean(values + last, "data"))
                last = 0 * means[-1][0]
            return mean_over_devices(gradients, "data"), means

        return lax.fori_loop(0, steps, step, tree)

    zeros = devices.place(zeros, mesh, P())

    def run(steps: int) -> float:
        jax.block_until_ready(add_up(zeros, steps))
        return steps / hosts.count()

    return run
