"""Training of one recipe for several seeds on a mesh of devices, in compiled stretches."""

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
from mnist_jax.training.step import LOSSES, SAVED, TrainState, step_keys, train_step


class Trainer:
    """A recipe in progress: one state per seed, and the compiled functions that advance them.

    The states carry a leading axis of seeds, spread over the mesh's `seed` axis; batches are
    split over its `data` axis. The dataset lives on the devices as uint8. The order of an epoch,
    and a step's dropout masks and changes of images, follow from the seed and the step alone.

    Args:
      recipe: what to train; its `seed` is replaced by each of `seeds`.
      dataset: where its images come from.
      seeds: one network is trained for each.
      num_devices: how many devices to use; by default all that divide the work.
      parts: how many devices are to share a batch, on which the last digits depend.

    Attributes:
      recipe: as given, as are `seeds`.
      mesh: the devices, as ('seed', 'data').
      schedule: the recipe's steps.
      step: how many of them have been taken.
      states: of all seeds.
      train: the images to train on, before they are shifted; where every seed draws its own, all
        that they are drawn from.
      validation: the images held out, if the recipe says so; where every seed draws its own, with
        a leading axis of seeds.
      test: the test images.

    Raises:
      UsageError: the recipe does not fit the dataset or the devices, or the seeds the memory.
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
            # By default on all devices; what several processes share can't go to others.
            alone = jax.process_count() == 1
            mesh = devices.make_mesh(len(seeds), (), num_devices) if alone else self.mesh
            self._evaluate = evaluation.exact(recipe, mesh, multiply_adds_per_parameter=work)

    def state(self, index: int) -> TrainState:
        """The state of one seed, by its place in `seeds`, without the leading axis."""
        state: TrainState = _take(self.states, index)
        return state

    def saved(self) -> list[dict[str, Any]]:
        """What has to be kept of every seed to go on later: NumPy arrays.

        Order, dropout masks and changes of images follow from the seed and the step.
        """
        states = {name: getattr(self.states, name) for name in SAVED}
        states = devices.fetch(states, self.mesh)
        return [jax.tree.map(itemgetter(i), states) for i in range(len(self.seeds))]

    def start_from(self, weights: Mapping[str, Any]) -> None:
        """Gives every seed these `params` and `batch_stats` in place of its own."""
        of_seeds = jax.tree.map(lambda a: np.stack([a] * len(self.seeds)), dict(weights))
        placed = devices.place(of_seeds, self.mesh, P("seed"))
        self.states = self.states.replace(**placed).restart_averages()

    def restore(self, step: int, saved: Sequence[Mapping[str, Any]]) -> None:
        """Goes to where `saved` was taken, of the same recipe, after `step` steps."""
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
        # The short last batch is an order of its own, after those of full size.
        short, first = divmod(start, self.schedule.full_steps)
        order = self._orders[short]
        stop = min(first + count, order.shape[1])
        self.states, log = self._run(self.states, order, *self._data, first, stop)
        self.step += stop - first
        taken: np.ndarray = devices.fetch(log, self.mesh)[:, first:stop]
        return taken

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """An epoch's images in the order that a seed takes them: indices [examples].

        Where images are shifted an index is one of `shifts.take_shifted`.
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
        """Compiles what `advance` runs: full batches and the short last one, side by side."""
        self._place_in_epoch()
        # Traced in this thread, to which the caller's JAX contexts belong.
        lowered = [self._run.lower(self.states, one, *self._data, 0, 1) for one in self._orders]
        with ThreadPoolExecutor(len(lowered)) as threads:
            for compiled in [threads.submit(one.compile) for one in lowered]:
                compiled.result()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Evaluates every image exactly once: uint8 [N, 28, 28] to logits [seeds, N, 10].

        With a leading axis of seeds, every seed's own images.
        With the recipe's `training_mode` the BatchNorm statistics of the states move.
        """
        self.states, logits = self._evaluate(self.states, images)
        return logits

    def _draw(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The indices of a seed's own images to train on and to hold out."""
        return draw_held_out(len(self.train), self.recipe.validation, seed)

    def _place_in_epoch(self) -> int:
        """The steps taken of the present epoch, whose order is then there."""
        epoch, start = divmod(self.step, self.schedule.steps_per_epoch)
        if self._epoch != epoch:
            self._epoch, self._orders = epoch, self._epoch_orders(epoch)
        return start

    def _make_mesh(self, num_devices: int | None, parts: int | None, work: float) -> Mesh:
        size = self.recipe.batch_size
        sizes = self.schedule.batch_sizes
        if self.recipe.evaluation == "training_mode":
            sizes |= {len(self.test) % size or size}
        # Who names a number of devices gets them, and so does who starts several processes.
        split = bool(num_devices) or jax.process_count() > 1
        split = split or chunks.worth_splitting(size, multiply_adds_per_parameter=work)
        return devices.make_mesh(
            len(self.seeds), sizes, num_devices, split_batches=split, parts=parts
        )

    def _initial_states(self) -> TrainState:
        create = jax.jit(_initial_state(self.recipe, self.schedule.steps_per_epoch))
        states: TrainState = _stack([create(jax.random.key(seed)) for seed in self.seeds])
        return states

    def _epoch_orders(self, epoch: int) -> list[jax.Array]:
        """The epoch's batches as [seeds, steps, batch], and the short last one if there is one."""
        full, count = self.schedule.full_steps, len(self.seeds)
        split = full * self.recipe.batch_size
        orders = np.stack([self.order(seed, epoch) for seed in self.seeds])
        parts = [orders[:, :split].reshape(count, full, -1)]
        if split < self.schedule.examples:
            parts.append(orders[:, None, split:])
        return [devices.place(part, self.mesh, P("seed", None, "data")) for part in parts]


def check_memory(recipe: Recipe, num_seeds: int) -> None:
    """Refuses more seeds than can train together here, by the shapes of their states alone.

    It is a lower bound: states and gradients, and the two copies that are made to save them. One
    seed is left to the system, which knows better.

    Raises:
      UsageError: there are too many.
    """
    if num_seeds < 2:
        return
    state = jax.eval_shape(_initial_state(recipe, 1), jax.random.key(0))
    saved = sum(_bytes(getattr(state, name)) for name in SAVED)
    devices.refuse_lack_of_memory(
        f"{num_seeds:,} seeds of {recipe.model}",
        num_seeds * (saved + _bytes(state.params)),
        num_seeds * 2 * saved,
    )


# Outside a `jax.jit` each shape of an array would be compiled by itself.
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
