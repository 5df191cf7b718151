"""The train step and article E's evaluation: pure functions of state and data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax import lax
from jax.flatten_util import ravel_pytree

from mnist_jax.models.layers import Network, check_trainable, in_evaluation

Loss = Callable[[jax.Array, jax.Array], jax.Array]
Variables = nnx.State[Any, Any]

# Elements from which on an array is exchanged between devices separately.
LARGE = 10_000
# The mapped axis of a batch's chunks when they are computed side by side.
_CHUNKS = "chunks"


class Metrics(NamedTuple):
    """Means over a batch."""

    loss: jax.Array
    accuracy: jax.Array


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Per-image cross-entropy: logits [N, 10] and labels [N] to [N], in nats."""
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses


def mean_squared_error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Per-image mean of (output - one-hot)² over the classes: [N, 10] and [N] to [N]."""
    return jnp.mean((outputs - jax.nn.one_hot(labels, outputs.shape[-1])) ** 2, axis=-1)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "mean_squared_error": mean_squared_error,
}


# The fields of `TrainState` that are not determined by the recipe, the seed and the step.
SAVED = ("params", "batch_stats", "opt_state", "averages")


class TrainState(struct.PyTreeNode):
    """The training state: everything that a step changes, and static configuration.

    Attributes:
      step: steps taken so far.
      params: the network's parameters.
      batch_stats: its BatchNorm statistics; empty without BatchNorm.
      opt_state: the optimiser's moments.
      key: the random key which, with the step, determines dropout masks and augmentation.
      averages: moving averages of `params` and `batch_stats`, by these names; None if not used.
      graphdef: the network's structure, in training mode.
      optimizer: the Optax transformation.
      loss: per-image loss.
      average_decay: decay of the averages per step.
    """

    step: jax.Array
    params: Variables
    batch_stats: Variables
    opt_state: optax.OptState
    key: jax.Array
    averages: dict[str, Variables] | None
    graphdef: nnx.GraphDef[Network] = struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
    loss: Loss = struct.field(pytree_node=False)
    average_decay: float = struct.field(pytree_node=False)

    @classmethod
    def create(
        cls,
        model: Network,
        optimizer: optax.GradientTransformation,
        loss: Loss = cross_entropy,
        *,
        key: jax.Array,
        average_decay: float = 0.0,
    ) -> "TrainState":
        """Starts training from a model's current values.

        Args:
          model: a network, of this package or of your own.
          optimizer: an Optax transformation.
          loss: per-image loss of outputs [N, 10] and labels [N].
          key: random key of the dropout masks.
          average_decay: decay per step of an exponential moving average of parameters and BatchNorm
            statistics, which starts at their initial values; 0: no average.

        Raises:
          UsageError: as from `check_trainable`.

        Example:
          >>> from mnist_jax.models.layers import Linear, flatten
          >>> own = Network(flatten=flatten, out=Linear(784, 10, rngs=nnx.Rngs(0)))
          >>> state = TrainState.create(own, optax.adam(1e-3), key=jax.random.key(0))
          >>> state.params["out"]["kernel"].shape, int(state.step)
          ((784, 10), 0)
        """
        check_trainable(model)
        train_view = nnx.view(
            model,
            deterministic=False,
            use_running_average=False,
            raise_if_not_found=False,
        )
        graphdef, *states = nnx.split(train_view, nnx.Param, nnx.BatchStat)
        # Copies, so that donating the state does not invalidate the model's own arrays.
        params, batch_stats = jax.tree.map(jnp.copy, nnx.as_pure(states))
        state = cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=optimizer.init(params),
            key=key,
            averages=None,
            graphdef=graphdef,
            optimizer=optimizer,
            loss=loss,
            average_decay=average_decay,
        )
        return state.restart_averages()

    def restart_averages(self) -> "TrainState":
        """The state with its averages, if enabled, reset to its current values."""
        if not self.average_decay:
            return self
        return self.replace(averages=jax.tree.map(jnp.copy, self._values()))

    def move_averages(self) -> "TrainState":
        """The state with its averages, if enabled, updated with its current values."""
        if self.averages is None:
            return self
        moved = optax.incremental_update(self._values(), self.averages, 1 - self.average_decay)
        return self.replace(averages=moved)

    def _values(self) -> dict[str, Variables]:
        return {"params": self.params, "batch_stats": self.batch_stats}

    def model(self) -> Network:
        """The network in evaluation mode, with the state's averages if it has any."""
        values = self.averages or self._values()
        return in_evaluation(nnx.merge(self.graphdef, values["params"], values["batch_stats"]))


def train_step(
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    *,
    axis_name: str | None = None,
    chunk_size: int | None = None,
    side_by_side: bool = False,
) -> tuple[TrainState, Metrics]:
    """Takes one optimiser step on a batch.

    Args:
      state: made by `TrainState.create`.
      images: [N, 28, 28, 1], normalised.
      labels: [N], integers.
      axis_name: the mapped axis that the batch is split over, in equal parts: of `jax.pmap`, or
        of `jax.shard_map` with `check_vma=False`, without which JAX sums the gradients before the
        step averages them. Means over the axis are the step's only communication.
      chunk_size: images per chunk, to fit a CPU's cache; divides N. Gradients are accumulated chunk
        by chunk.
      side_by_side: instead, chunks go through the network together, and only convolutions process
        them one after another: for networks with more parameters than work in a chunk, and always
        with BatchNorm, whose statistics are those of the whole batch.

    Returns:
      The state after the step, and the metrics of the whole batch before it.

    Raises:
      ValueError: `chunk_size` does not divide N.

    Example:
      >>> from mnist_jax.models import create_model
      >>> network = create_model("dense", rngs=nnx.Rngs(0))
      >>> state = TrainState.create(network, optax.sgd(0.1), key=jax.random.key(0))
      >>> images, labels = jnp.zeros((4, 28, 28, 1)), jnp.array([7, 7, 7, 7])
      >>> step = jax.jit(train_step)
      >>> for _ in range(3):
      ...     state, metrics = step(state, images, labels)
      >>> int(state.step), state.model()(images).argmax(-1).tolist()
      (3, [7, 7, 7, 7])
    """
    grads, batch_stats, metrics = gradients(
        state, images, labels, axis_name, chunk_size or labels.shape[0], side_by_side
    )
    updates, opt_state = state.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = state.replace(
        step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state
    )
    return state.move_averages(), metrics


def gradients(
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    axis_name: str | None,
    chunk_size: int,
    side_by_side: bool,
) -> tuple[Variables, Variables, Metrics]:
    """The gradients of the mean loss, the updated BatchNorm statistics, and the batch's metrics.

    The arguments are those of `train_step`.
    """
    size = labels.shape[0]
    if size % chunk_size:
        raise ValueError(f"chunk_size is {chunk_size}, which does not divide a batch of {size}.")
    count = size // chunk_size
    side_by_side = count > 1 and (side_by_side or bool(jax.tree.leaves(state.batch_stats)))
    axes = tuple(axis for axis in (axis_name, _CHUNKS if side_by_side else None) if axis)
    keys = step_keys(state, size, axis_name)

    def mean_loss(
        params: Variables, images: jax.Array, labels: jax.Array, keys: jax.Array
    ) -> tuple[jax.Array, tuple[Variables, jax.Array]]:
        model = _merge(state, params, state.batch_stats, axes)
        logits = model(images, keys=keys)
        batch_stats = nnx.as_pure(nnx.state(model, nnx.BatchStat))
        accuracy = jnp.mean(jnp.argmax(logits, -1) == labels, dtype=logits.dtype)
        return jnp.mean(state.loss(logits, labels)), (batch_stats, accuracy)

    function = _over_chunks_at_once(mean_loss, count) if side_by_side else mean_loss
    both, batch = jax.value_and_grad(function, has_aux=True), (images, labels, keys)
    means = _mean_over_chunks(both, state.params, batch, 1 if side_by_side else count)
    (loss, (batch_stats, accuracy)), grads = means
    grads, metrics = mean_over_devices((grads, Metrics(loss, accuracy)), axis_name)
    return grads, batch_stats, metrics


def step_keys(state: TrainState, size: int, axis_name: str | None) -> jax.Array:
    """The random keys of the next step's images.

    Args:
      state: the state before the step.
      size: images in this device's part of the batch.
      axis_name: as in `train_step`.

    Returns:
      [size], each determined by the image's index in the whole batch.
    """
    return _image_keys(jax.random.fold_in(state.key, state.step), size, axis_name)


def _merge(
    state: TrainState, params: Variables, batch_stats: Variables, axes: tuple[str, ...]
) -> Network:
    """The network in training mode, with BatchNorm statistics over the mapped `axes`."""
    model = nnx.merge(state.graphdef, params, batch_stats)
    if axes and jax.tree.leaves(batch_stats):
        return nnx.view(model, axis_name=axes)
    return model


def _image_keys(key: jax.Array, size: int, axis_name: str | None) -> jax.Array:
    """A key for each image of this device's part, by the image's index in the whole batch."""
    first = lax.axis_index(axis_name) * size if axis_name else 0
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(size))


def _mean_over_chunks(
    function: Callable[..., Any], params: Variables, batch: tuple[jax.Array, ...], count: int
) -> Any:
    """The mean of function(params, *chunk) over equal chunks of a batch, one after another."""
    if count == 1:
        return function(params, *batch)
    chunks = _split(batch, count)
    zeros = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype),
        jax.eval_shape(function, params, *jax.tree.map(lambda a: a[0], chunks)),
    )

    def add(total: Any, chunk: tuple[jax.Array, ...]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(params, *chunk)), None

    total, _ = lax.scan(add, zeros, chunks)
    return jax.tree.map(lambda a: a / count, total)


def _over_chunks_at_once(mean_loss: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The mean over equal chunks of a batch, mapped over the axis `_CHUNKS`."""
    mapped = jax.vmap(mean_loss, (None, 0, 0, 0), (0, (None, 0)), axis_name=_CHUNKS)

    def mean(params: Variables, *batch: jax.Array) -> Any:
        losses, (batch_stats, accuracies) = mapped(params, *_split(batch, count))
        return jnp.mean(losses), (batch_stats, jnp.mean(accuracies))

    return mean


def _split(batch: tuple[jax.Array, ...], count: int) -> tuple[jax.Array, ...]:
    return tuple(a.reshape(count, -1, *a.shape[1:]) for a in batch)


def mean_over_devices(tree: Any, axis_name: str | None) -> Any:
    """The mean over a mapped axis: one all-reduce per large array, one for all small ones.

    The latency of an all-reduce exceeds the transfer of a small array; packing a large one costs a
    copy.
    """
    if axis_name is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    packed, unpack = ravel_pytree([leaf for leaf in leaves if leaf.size < LARGE])
    small = iter(unpack(lax.pmean(packed, axis_name)))
    means = [lax.pmean(a, axis_name) if a.size >= LARGE else next(small) for a in leaves]
    return jax.tree.unflatten(structure, means)


def training_mode_logits(
    state: TrainState, batches: jax.Array, *, axis_name: str | None = None
) -> tuple[TrainState, jax.Array]:
    """Evaluates without leaving training mode, as article E's program does.

    Dropout stays on, and BatchNorm uses each batch's statistics, which update the running ones.

    Args:
      state: made by `TrainState.create`.
      batches: normalised images [batches, N, 28, 28, 1], taken in order.
      axis_name: as in `train_step`.

    Returns:
      The state with the updated statistics, and the logits [batches, N, 10].
    """
    # Training folds the step itself into the key; its complement is never a step.
    evaluation_key = jax.random.fold_in(state.key, ~state.step)

    def body(
        batch_stats: Variables, batch: tuple[jax.Array, jax.Array]
    ) -> tuple[Variables, jax.Array]:
        number, images = batch
        key = jax.random.fold_in(evaluation_key, number)
        model = _merge(state, state.params, batch_stats, (axis_name,) if axis_name else ())
        logits = model(images, keys=_image_keys(key, images.shape[0], axis_name))
        return nnx.as_pure(nnx.state(model, nnx.BatchStat)), logits

    numbered = (jnp.arange(batches.shape[0]), batches)
    batch_stats, logits = lax.scan(body, state.batch_stats, numbered)
    return state.replace(batch_stats=batch_stats), logits
