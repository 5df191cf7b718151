"""Training: one pure step, and what repeats it over batches, seeds, devices and interruptions."""

from mnist_jax.training.step import Metrics, TrainState, train_step

__all__ = ["Metrics", "TrainState", "train_step"]
