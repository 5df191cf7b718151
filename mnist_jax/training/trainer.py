"""Training of one recipe for several seeds on a mesh of devices, in compiled loops of steps."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mnist_jax.data import Dataset, Split, draw_held_out, hold_out
from mnist_jax.inputs import training_inputs
from mnist_jax.models import abstract_model, create_model
from mnist_jax.models.summary import multiply_adds, multiply_adds_per_parameter
from mnist_jax.recipe import Recipe
from mnist_jax.training import chunks, devices, evaluation, shifts
from mnist_jax.training.optimizers import make_optimizer
from mnist_jax.training.schedule import Schedule
from mnist_jax.training.step import (
    LOSSES,
    SAVED,
    TrainState,
    step_keys,
    train_step,
    training_mode_logits,
)


class Trainer:
    """The training of a recipe: one state per seed, and the compiled functions to advance them.

    The states have a leading axis of seeds, split over the mesh's `seed` axis; batches are split
    over its `data` axis. The dataset is stored on the devices as uint8. The order of an epoch, and
    a step's dropout masks and augmentation, depend only on the seed and the step.

    Args:
      recipe: what to train; its `seed` is replaced by each of `seeds`.
      dataset: the source of the images.
      seeds: one network is trained for each.
      num_devices: how many devices to use; by default all that divide the work.
      parts: how many devices share a batch, which affects the last digits.

    Attributes:
      recipe: as given, as are `seeds`.
      mesh: the devices, as ('seed', 'data').
      schedule: the recipe's steps.
      step: the number of steps taken so far.
      states: the states of all seeds.
      train: the training images before shifting; if every seed draws its own, all that they are
        drawn from.
      validation: the held-out images, or None; if every seed draws its own, with a leading axis of
        seeds.
      test: the test images.

    Raises:
      UsageError: the recipe does not fit the dataset or the devices, or the seeds do not fit into
        memory.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        *,
        seeds: Sequence[int],
        num_devices: int | None = None,
        parts: int | None = None,
    ):
        check_memory(recipe, len(seeds))
        self.recipe, self.seeds, self.test = recipe, tuple(seeds), dataset.test
        self.train, self.validation = dataset.train, None
        if recipe.validation and recipe.held_out == "last":
            self.train, self.validation = hold_out(dataset.train, recipe.validation)
        elif recipe.validation:
            drawn = np.stack([self._draw(seed)[1] for seed in self.seeds])
            self.validation = Split(self.train.images[drawn], self.train.labels[drawn])
        self.schedule = Schedule.of_images(recipe, len(dataset.train))
        self.step = 0
        network = abstract_model(recipe.model, **recipe.model_args)
        work = multiply_adds_per_parameter(network)
        self.mesh = self._make_mesh(num_devices, parts, work)
        self._refuse_batches_of_one()
        self.states = devices.place(self._initial_states(), self.mesh, P("seed"))
        images = jnp.asarray(self.train.images)
        if recipe.one_pixel_shifts:
            images = shifts.pad_for_shifts(images)
        data = (images, jnp.asarray(self.train.labels))
        self._data = devices.place(data, self.mesh, P())
        self._epoch, self._orders = -1, list[jax.Array]()
        self._run = _compile_run(self.mesh, recipe, multiply_adds(network), work)
        if recipe.evaluation == "training_mode":
            self._evaluate = evaluation.in_training_mode(recipe, self.mesh)
        else:
            # On all devices by default; arrays shared by several processes must stay on their mesh.
            alone = jax.process_count() == 1
            mesh = devices.make_mesh(len(seeds), (), num_devices) if alone else self.mesh
            self._evaluate = evaluation.exact(recipe, mesh, multiply_adds_per_parameter=work)

    def state(self, index: int) -> TrainState:
        """The state of one seed, by its index in `seeds`, without the leading axis."""
        state: TrainState = _take(self.states, index)
        return state

    def saved(self) -> list[dict[str, Any]]:
        """The NumPy arrays that must be saved for every seed in order to resume.

        Order, dropout masks and augmentation follow from the seed and the step.
        """
        states = {name: getattr(self.states, name) for name in SAVED}
        states = devices.fetch(states, self.mesh)
        return [jax.tree.map(itemgetter(i), states) for i in range(len(self.seeds))]

    def start_from(self, weights: Mapping[str, Any]) -> None:
        """Replaces every seed's `params` and `batch_stats` by these."""
        of_seeds = jax.tree.map(lambda a: np.stack([a] * len(self.seeds)), dict(weights))
        placed = devices.place(of_seeds, self.mesh, P("seed"))
        self.states = self.states.replace(**placed).restart_averages()

    def restore(self, step: int, saved: Sequence[Mapping[str, Any]]) -> None:
        """Restores the result of `saved`, taken after `step` steps of the same recipe."""
        states = {
            name: jax.tree.map(lambda *arrays: np.stack(arrays), *(seed[name] for seed in saved))
            for name in SAVED
        }
        steps = np.full(len(self.seeds), step, np.int32)
        placed = devices.place(states | {"step": steps}, self.mesh, P("seed"))
        self.states = self.states.replace(**placed)
        self.step = step

    def advance(self, count: int) -> np.ndarray:
        """Takes up to `count` steps, but not past the end of the epoch.

        Returns:
          [seeds, steps taken, 2]: every step's loss and accuracy on its batch.
        """
        start = self._place_in_epoch()
        # A smaller last batch has its own array of indices, after that of the full batches.
        short, first = divmod(start, self.schedule.full_steps)
        order = self._orders[short]
        stop = min(first + count, order.shape[1])
        self.states, log = self._run(self.states, order, *self._data, first, stop)
        self.step += stop - first
        taken: np.ndarray = devices.fetch(log, self.mesh)[:, first:stop]
        return taken

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """A seed's image indices [examples] in an epoch, in order.

        If the recipe shifts images, they are indices for `shifts.take_shifted`.
        """
        count = len(self.train)
        drawn = self.recipe.validation and self.recipe.held_out == "random"
        own = self._draw(seed)[0] if drawn else np.arange(count)
        views = len(shifts.SHIFTS) if self.recipe.one_pixel_shifts else 1
        indices = np.concatenate([own + view * count for view in range(views)]).astype(np.int32)
        if self.recipe.shuffle != "never":
            of_epoch = epoch if self.recipe.shuffle == "every_epoch" else 0
            indices = np.random.default_rng([seed, of_epoch]).permutation(indices)
        return indices[: self.schedule.examples]

    def compile(self) -> None:
        """Compiles the functions of `advance` for full and smaller last batches, in parallel."""
        self._place_in_epoch()
        # Traced in this thread, because JAX contexts of the caller are thread-local.
        lowered = [self._run.lower(self.states, one, *self._data, 0, 1) for one in self._orders]
        with ThreadPoolExecutor(len(lowered)) as threads:
            for compiled in [threads.submit(one.compile) for one in lowered]:
                compiled.result()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Evaluates every image exactly once: uint8 [N, 28, 28] to logits [seeds, N, 10].

        Images may have a leading axis of seeds. In `training_mode`, the BatchNorm statistics of the
        states are updated.
        """
        self.states, logits = self._evaluate(self.states, images)
        return logits

    def _draw(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws the indices of a seed's training and held-out images."""
        return draw_held_out(len(self.train), self.recipe.validation, seed)

    def _place_in_epoch(self) -> int:
        """The steps taken in the current epoch; prepares its order if necessary."""
        epoch, start = divmod(self.step, self.schedule.steps_per_epoch)
        if self._epoch != epoch:
            self._epoch, self._orders = epoch, self._epoch_orders(epoch)
        return start

    def _make_mesh(self, num_devices: int | None, parts: int | None, work: float) -> Mesh:
        size, sizes = self.recipe.batch_size, self._batch_sizes()
        # An explicit number of devices, or of processes, is used even if it does not pay.
        split = bool(num_devices) or jax.process_count() > 1
        split = split or chunks.worth_splitting(size, multiply_adds_per_parameter=work)
        return devices.make_mesh(
            len(self.seeds), sizes, num_devices, split_batches=split, parts=parts
        )

    def _batch_sizes(self) -> set[int]:
        """The sizes of all batches that the network computes in training mode."""
        size = self.recipe.batch_size
        sizes = self.schedule.batch_sizes
        if self.recipe.evaluation == "training_mode":
            evaluated = [split for split in (self.test, self.validation) if split is not None]
            sizes |= {split.labels.shape[-1] % size or size for split in evaluated}
        return sizes

    def _refuse_batches_of_one(self) -> None:
        """Lets BatchNorm refuse a batch of one image now, before anything has been written."""
        if 1 in self._batch_sizes():
            create = _initial_state(self.recipe, self.schedule.steps_per_epoch)
            state = jax.eval_shape(create, jax.random.key(0))
            images = jax.ShapeDtypeStruct((1, 1, 28, 28, 1), jnp.float32)
            jax.eval_shape(training_mode_logits, state, images)

    def _initial_states(self) -> TrainState:
        create = jax.jit(_initial_state(self.recipe, self.schedule.steps_per_epoch))
        states: TrainState = _stack([create(jax.random.key(seed)) for seed in self.seeds])
        return states

    def _epoch_orders(self, epoch: int) -> list[jax.Array]:
        """The epoch's full batches as [seeds, steps, batch], and a smaller last one if any."""
        full, count = self.schedule.full_steps, len(self.seeds)
        split = full * self.recipe.batch_size
        orders = np.stack([self.order(seed, epoch) for seed in self.seeds])
        parts = [orders[:, :split].reshape(count, full, -1)]
        if split < self.schedule.examples:
            parts.append(orders[:, None, split:])
        return [devices.place(part, self.mesh, P("seed", None, "data")) for part in parts]


def check_memory(recipe: Recipe, num_seeds: int) -> None:
    """Raises if there are more seeds than fit into memory, judging by the shapes of their states.

    The estimate is a lower bound: states and gradients, and the two copies made for saving. A
    single seed is not checked: the system reports a lack of memory more accurately. Nor are those
    of a recipe with a patience, which are trained one by one.

    Raises:
      UsageError: there are too many.
    """
    if num_seeds < 2 or recipe.patience:
        return
    state = jax.eval_shape(_initial_state(recipe, 1), jax.random.key(0))
    saved = sum(_bytes(getattr(state, name)) for name in SAVED)
    devices.refuse_lack_of_memory(
        f"{num_seeds:,} seeds of {recipe.model}",
        num_seeds * (saved + _bytes(state.params)),
        num_seeds * 2 * saved,
    )


# Without `jax.jit`, every array shape would be compiled separately.
@jax.jit
def _stack(states: Sequence[TrainState]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


@jax.jit
def _take(states: TrainState, index: int) -> Any:
    return jax.tree.map(lambda a: a[index], states)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _initial_state(recipe: Recipe, steps_per_epoch: int) -> Callable[[jax.Array], TrainState]:
    """A function from a seed's key to its state before the first step."""
    optimizer = make_optimizer(recipe, steps_per_epoch)

    def create(key: jax.Array) -> TrainState:
        init_key, dropout_key = jax.random.split(key)
        model = create_model(recipe.model, rngs=nnx.Rngs(init_key), **recipe.model_args)
        return TrainState.create(
            model,
            optimizer,
            LOSSES[recipe.loss],
            key=dropout_key,
            average_decay=recipe.average_decay,
        )

    return create


def _compile_run(mesh: Mesh, recipe: Recipe, multiply_adds: int, per_parameter: float) -> Any:
    """Compiles (states, order, images, labels, start, stop) -> (states, log [seeds, steps, 2])."""
    take = shifts.take_shifted if recipe.one_pixel_shifts else lambda a, i: a[i]

    def steps(
        state: TrainState,
        order: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        start: int,
        stop: int,
    ) -> tuple[TrainState, jax.Array]:
        chunk = chunks.chunk_size(order.shape[1], multiply_adds=multiply_adds)
        axis_name = devices.data_axis(mesh)
        step = partial(
            train_step,
            axis_name=axis_name,
            chunk_size=chunk,
            side_by_side=chunks.side_by_side(chunk, multiply_adds_per_parameter=per_parameter),
        )

        def body(i: int, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
            state, log = carry
            index = order[i]
            keys = step_keys(state, len(index), axis_name)
            batch = training_inputs(recipe, take(images, index), keys)
            state, metrics = step(state, batch, labels[index % labels.shape[0]])
            return state, log.at[i].set(jnp.stack(metrics))

        log = jnp.zeros((order.shape[0], 2))
        state, log = lax.fori_loop(start, stop, body, (state, log))
        return state, log

    in_specs = (P("seed"), P("seed", None, "data"), P(), P(), P(), P())
    return devices.compile_over_seeds(
        steps, mesh, in_specs=in_specs, out_specs=P("seed"), donate=(0,)
    )
