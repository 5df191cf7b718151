"""Training: a pure step, and its repetition over batches, seeds, devices and interruptions."""

from mnist_jax.training.step import Metrics, TrainState, train_step

__all__ = ["Metrics", "TrainState", "train_step"]
