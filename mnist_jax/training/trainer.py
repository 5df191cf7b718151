"""Training of one recipe for several seeds on a mesh of devices, in compiled stretches."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mnist_jax.data import Dataset, hold_out
from mnist_jax.errors import UsageError
from mnist_jax.inputs import normalize
from mnist_jax.models import abstract_model, create_model
from mnist_jax.models.summary import summarize
from mnist_jax.recipe import Recipe
from mnist_jax.training import augmentation, devices
from mnist_jax.training.optimizers import make_optimizer
from mnist_jax.training.step import LOSSES, TrainState, train_step, training_mode_logits

# The fields of `TrainState` that do not follow from the recipe, the seed and the step.
_SAVED = ("params", "batch_stats", "opt_state")


class Trainer:
    """A recipe in progress: one state per seed, and the compiled functions that advance them.

    The states carry a leading axis of seeds, spread over the mesh's `seed` axis; batches are
    split over its `data` axis. The dataset lives on the devices as uint8. The order of an epoch
    and the dropout masks of a step follow from the seed and the step alone.

    Args:
      recipe: what to train; its `seed` is replaced by each of `seeds`.
      dataset: where its images come from.
      seeds: one network is trained for each.
      num_devices: how many devices to use; by default all that divide the work.

    Raises:
      UsageError: the recipe does not fit the dataset or the devices.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        *,
        seeds: Sequence[int],
        num_devices: int | None = None,
    ):
        self.recipe = recipe
        self.seeds = tuple(seeds)
        train, self.validation = dataset.train, None
        if recipe.validation:
            train, self.validation = hold_out(dataset.train, recipe.validation)
        self.test = dataset.test
        views = len(augmentation.SHIFTS) if recipe.one_pixel_shifts else 1
        self._examples = views * len(train)
        if recipe.batch_size > self._examples:
            raise UsageError(
                f"batch_size is {recipe.batch_size}, but {recipe.dataset} has"
                f" {self._examples} training images."
            )
        self.steps_per_epoch = math.ceil(self._examples / recipe.batch_size)
        self._full_steps = self._examples // recipe.batch_size
        sizes = {recipe.batch_size, self._examples % recipe.batch_size}
        if recipe.evaluation == "training_mode":
            sizes.add(len(self.test) % recipe.batch_size)
        layers = summarize(abstract_model(recipe.model, **recipe.model_args))
        work = sum(layer.multiply_adds for layer in layers)
        work_per_parameter = work / sum(layer.parameters for layer in layers)
        self.mesh = devices.make_mesh(
            len(self.seeds),
            sizes - {0},
            num_devices,
            multiply_adds_per_parameter=work_per_parameter,
        )
        self._replicated = NamedSharding(self.mesh, P())
        self._by_seed = NamedSharding(self.mesh, P("seed"))
        images = jnp.asarray(train.images)
        if recipe.one_pixel_shifts:
            images = augmentation.pad_for_shifts(images)
        self._data = jax.device_put((images, jnp.asarray(train.labels)), self._replicated)
        self._epoch = -1
        self._orders: list[jax.Array] = []
        self.step = 0
        self.states = jax.device_put(self._initial_states(), self._by_seed)
        self._run = _compile_run(self.mesh, recipe, work_per_parameter)
        chunk = devices.evaluation_chunk(multiply_adds_per_parameter=work_per_parameter)
        self._evaluation_chunk = chunk
        # Evaluation exchanges nothing, so all devices are worth it.
        self._evaluation_mesh = devices.make_mesh(
            len(self.seeds),
            {chunk * (num_devices or jax.device_count())},
            num_devices,
            multiply_adds_per_parameter=math.inf,
        )
        self._logits = _compile_logits(self._evaluation_mesh, recipe)
        self._training_mode_logits = _compile_training_mode_logits(self.mesh, recipe)

    @property
    def total_steps(self) -> int:
        """Steps in the whole recipe."""
        return self.steps_per_epoch * self.recipe.epochs

    def state(self, index: int) -> TrainState:
        """The state of one seed, by its place in `seeds`, without the leading axis."""
        return jax.tree.map(lambda a: a[index], self.states)

    def saved(self) -> list[dict[str, Any]]:
        """What has to be kept of every seed to go on later: NumPy arrays.

        Order and dropout masks follow from the seed and the step.
        """
        states = jax.device_get({name: getattr(self.states, name) for name in _SAVED})
        return [jax.tree.map(itemgetter(i), states) for i in range(len(self.seeds))]

    def restore(self, step: int, saved: Sequence[Mapping[str, Any]]) -> None:
        """Goes to where `saved` was taken, of the same recipe, after `step` steps."""
        states = {
            name: jax.tree.map(lambda *arrays: np.stack(arrays), *(seed[name] for seed in saved))
            for name in _SAVED
        }
        steps = np.full(len(self.seeds), step, np.int32)
        placed = jax.device_put(states | {"step": steps}, self._by_seed)
        self.states = self.states.replace(**placed)
        self.step = step

    def batch_size(self, step: int) -> int:
        """Images in a step's batch: the last of an epoch may be short."""
        first = step % self.steps_per_epoch * self.recipe.batch_size
        return min(self.recipe.batch_size, self._examples - first)

    def advance(self, count: int) -> np.ndarray:
        """Takes up to `count` steps, but not past the end of the epoch.

        Returns:
          [seeds, steps taken, 2]: every step's loss and accuracy on its batch.
        """
        start = self.step % self.steps_per_epoch
        if self._epoch != self.step // self.steps_per_epoch:
            self._epoch = self.step // self.steps_per_epoch
            self._orders = self._epoch_orders(self._epoch)
        if start < self._full_steps:
            stop = min(start + count, self._full_steps)
            log = self._run_steps(self._orders[0], start, stop)
        else:
            stop = start + 1
            log = self._run_steps(self._orders[1], 0, 1)
        self.step += stop - start
        return log

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Evaluates every image exactly once: uint8 [N, 28, 28] to logits [seeds, N, 10].

        With the recipe's `training_mode` the BatchNorm statistics of the states move.
        """
        if self.recipe.evaluation == "training_mode":
            return self._logits_in_batches(images)
        mesh = self._evaluation_mesh
        missing = -len(images) % (self._evaluation_chunk * mesh.shape["data"])
        padded = np.pad(images, ((0, missing), (0, 0), (0, 0))) if missing else images
        chunks = padded.reshape(-1, self._evaluation_chunk, *images.shape[1:])
        states = self.states.replace(opt_state=None)  # Moments stay where they are.
        logits = self._logits(
            jax.device_put(states, NamedSharding(mesh, P("seed"))),
            jax.device_put(chunks, NamedSharding(mesh, P("data"))),
        )
        return np.asarray(logits).reshape(len(self.seeds), len(padded), -1)[:, : len(images)]

    def _logits_in_batches(self, images: np.ndarray) -> np.ndarray:
        """The same in training mode, in the batches that training has."""
        size = self.recipe.batch_size
        split = len(images) // size * size
        parts = []
        for some in (images[:split].reshape(-1, size, *images.shape[1:]), images[None, split:]):
            if some.size:
                batches = jax.device_put(some, NamedSharding(self.mesh, P(None, "data")))
                self.states, logits = self._training_mode_logits(self.states, batches)
                parts.append(np.asarray(logits).reshape(len(self.seeds), -1, logits.shape[-1]))
        return np.concatenate(parts, axis=1)

    def _run_steps(self, order: jax.Array, start: int, stop: int) -> np.ndarray:
        self.states, log = self._run(self.states, *self._data, order, start, stop)
        return np.asarray(log)[:, start:stop]

    def _initial_states(self) -> TrainState:
        recipe = self.recipe
        optimizer = make_optimizer(recipe, self.steps_per_epoch)

        @jax.jit
        def create(key: jax.Array) -> TrainState:
            init_key, dropout_key = jax.random.split(key)
            model = create_model(recipe.model, rngs=nnx.Rngs(init_key), **recipe.model_args)
            loss = LOSSES[recipe.loss]
            return TrainState.create(model, optimizer, loss, key=dropout_key)

        states = [create(jax.random.key(seed)) for seed in self.seeds]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    def _epoch_orders(self, epoch: int) -> list[jax.Array]:
        """The epoch's batches as [seeds, steps, batch], and the short last one if there is one."""
        orders = np.stack([self._order(seed, epoch) for seed in self.seeds])
        split = self._full_steps * self.recipe.batch_size
        parts = [orders[:, :split].reshape(len(self.seeds), self._full_steps, -1)]
        if split < self._examples:
            parts.append(orders[:, None, split:])
        return jax.device_put(parts, NamedSharding(self.mesh, P("seed", None, "data")))

    def _order(self, seed: int, epoch: int) -> np.ndarray:
        indices = np.arange(self._examples, dtype=np.int32)
        if self.recipe.shuffle == "never":
            return indices
        drawn = epoch if self.recipe.shuffle == "every_epoch" else 0
        return np.random.default_rng([seed, drawn]).permutation(indices)


def _compile_run(mesh: Mesh, recipe: Recipe, work_per_parameter: float) -> Any:
    """Compiles (states, images, labels, order, start, stop) -> (states, log [seeds, steps, 2])."""
    axis_name = _axis_name(mesh)

    def run_seed(
        images: jax.Array,
        labels: jax.Array,
        start: int,
        stop: int,
        state: TrainState,
        order: jax.Array,
    ) -> tuple[TrainState, jax.Array]:
        take = augmentation.take_shifted if recipe.one_pixel_shifts else lambda a, i: a[i]
        count = labels.shape[0]
        chunk = devices.chunk_size(order.shape[1])
        together = devices.side_by_side(chunk, multiply_adds_per_parameter=work_per_parameter)
        train = partial(train_step, axis_name=axis_name, chunk_size=chunk, side_by_side=together)

        def body(step: int, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
            state, log = carry
            index = order[step]
            batch = normalize(take(images, index), recipe.mean, recipe.std)
            state, metrics = train(state, batch, labels[index % count])
            return state, log.at[step].set(jnp.stack(metrics))

        return lax.fori_loop(start, stop, body, (state, jnp.zeros((order.shape[0], 2))))

    def run(states, images, labels, order, start, stop):
        return devices.map_seeds(partial(run_seed, images, labels, start, stop), states, order)

    specs = (P("seed"), P(), P(), P("seed", None, "data"), P(), P())
    mapped = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P("seed"), check_vma=False)
    return jax.jit(mapped, donate_argnums=0)


def _compile_logits(mesh: Mesh, recipe: Recipe) -> Any:
    """Compiles (states, [chunks, N, 28, 28]) -> logits [seeds, chunks, N, 10]."""

    def evaluate(chunks: jax.Array, state: TrainState) -> jax.Array:
        model = state.model()
        return lax.map(lambda images: model(normalize(images, recipe.mean, recipe.std)), chunks)

    def run(states, chunks):
        return devices.map_seeds(partial(evaluate, chunks), states)

    specs = (P("seed"), P("data"))
    mapped = jax.shard_map(
        run, mesh=mesh, in_specs=specs, out_specs=P("seed", "data"), check_vma=False
    )
    return jax.jit(mapped)


def _compile_training_mode_logits(mesh: Mesh, recipe: Recipe) -> Any:
    """Compiles (states, [batches, N, 28, 28]) -> (states, logits [seeds, batches, N, 10])."""

    def evaluate(batches: jax.Array, state: TrainState) -> tuple[TrainState, jax.Array]:
        normalized = normalize(batches, recipe.mean, recipe.std)
        return training_mode_logits(state, normalized, axis_name=_axis_name(mesh))

    def run(states, batches):
        return devices.map_seeds(partial(evaluate, batches), states)

    mapped = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(P("seed"), P(None, "data")),
        out_specs=(P("seed"), P("seed", None, "data")),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)


def _axis_name(mesh: Mesh) -> str | None:
    return "data" if mesh.shape["data"] > 1 else None
