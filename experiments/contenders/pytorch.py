"""The benchmark's PyTorch side: the references' training steps, with the data in memory.

Batches are views of one tensor that is prepared beforehand, so only the step is timed.
"""

import itertools
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from experiments.contenders.job import Job, Work
from experiments.references.torch_runs import reference, tensors
from mnist_jax.data import Dataset

# Warm-up steps that CUDA graphs require before a capture, on a side stream.
_STEPS_BEFORE_CAPTURE = 3


def build(job: Job, dataset: Dataset) -> Work:
    """Makes the work of a PyTorch variant; the dataset has whole batches only."""
    torch.set_num_threads(job.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = job.recipe.batch_size
    author = reference(job.recipe, len(dataset.train) // size)
    network = author.network().to(device)
    if job.variant == "torch-channels_last":
        # PyTorch's type hints leave this argument out.
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if job.variant == "torch-compile":
        network.compile()

    if job.task == "evaluate":
        network.eval()
        batches = tensors(job.recipe, dataset.test)[0].to(device).split(size)

        def evaluate(steps: int) -> float:
            with torch.inference_mode():
                for _ in range(steps):
                    torch.cat([network(batch) for batch in batches]).cpu()
            return steps * len(dataset.test)

        return evaluate

    optimizer = author.optimizer(network.parameters())
    images, labels = (part.to(device) for part in tensors(job.recipe, dataset.train))
    step: Callable[[Tensor, Tensor], Tensor] = partial(author.step, network, optimizer)
    if job.variant == "torch-cuda-graphs":
        for group in optimizer.param_groups:
            group["capturable"] = True
        step = _captured(step, images[:size].clone(), labels[:size].clone())
    endless = itertools.cycle(zip(images.split(size), labels.split(size), strict=True))

    def train(steps: int) -> float:
        for batch in itertools.islice(endless, steps):
            loss = step(*batch)
        loss.item()  # Waits for the device.
        return steps * size

    return train


def _captured(
    step: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """A step as one CUDA graph, replayed on new data copied into its two inputs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_STEPS_BEFORE_CAPTURE):
            step(images, labels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(images, labels)

    def replay(new_images: Tensor, new_labels: Tensor) -> Tensor:
        images.copy_(new_images)
        labels.copy_(new_labels)
        graph.replay()
        return loss

    return replay
