"""A training step as a CUDA graph: the GPU starts all its kernels by itself, without Python in between."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmlib.data.dataset import Batch

Step = Callable[[Batch], dict[str, Tensor]]


class CapturedStep:
    """Stands for `step`, from losses to update, of a method whose steps are all alike (`Method.static`).

    The first `EAGER` batches take ordinary steps, so that what the optimiser and libraries allocate once is there. The
    next one is captured and replayed from then on, with batches copied into its inputs. Batches of another size take
    ordinary steps. For one epoch: the learning rate and what a method prepares before each epoch are captured as well.
    """

    EAGER = 3

    def __init__(self, step: Step) -> None:
        self.step, self.taken = step, 0
        self.batch: Batch | None = None  # what the captured step reads
        self.losses: dict[str, Tensor] = {}  # and writes
        self.replay: Callable[[], None] = lambda: None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The step's losses, without their graph."""
        if self.batch is None and self.taken == self.EAGER:
            self.batch = Batch(
                {name: value.clone() for name, value in batch.inputs.items()}, *(value.clone() for value in batch[1:])
            )
            self.replay = self._captured()
        if self.batch is None or len(batch.labels) != len(self.batch.labels):
            self.taken += 1
            return self._eager(batch)
        for name, value in batch.inputs.items():
            self.batch.inputs[name].copy_(value)
        for own, value in zip(self.batch[1:], batch[1:], strict=True):
            own.copy_(value)
        self.replay()
        return {name: loss.detach().clone() for name, loss in self.losses.items()}

    def _eager(self, batch: Batch) -> dict[str, Tensor]:
        """On a stream of its own: what is captured later may not touch the default one."""
        stream, default = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(default)
        with torch.cuda.stream(stream):
            losses = self.step(batch)
        default.wait_stream(stream)
        return losses

    def _captured(self) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # computes nothing yet
            self.losses = self.step(self.batch)
        return graph.replay
