"""Steps of a recurrence as CUDA graphs: the processor starts one graph for many steps instead of two kernels a step.

The number of steps T differs from batch to batch, so a pass is put together from graphs of 16, 4 and 1 steps. A graph can
only replay what was captured, at the same addresses: a step must work on tensors that stay where they are, and read from
the device what changes, the index of its first step included.
"""

import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

log = logging.getLogger("g2lstm")
BLOCKS = (16, 4, 1)
PLAIN_PASSES = 2  # before a pass of some kind is captured: sizes that are seen once or twice are not worth it


class Steps:
    """Runs steps, from graphs where that is possible.

    Args:
        first: one int64 on the device, the index that offset 0 stands for. Zero at the start of each pass.
    """

    def __init__(self, first: Tensor) -> None:
        self.first = first
        self.passes: Counter[Hashable] = Counter()
        self.graphs: dict[tuple[Hashable, int], torch.cuda.CUDAGraph] = {}
        self.refused = False

    def run(self, step: Callable[[int], None], time: int, kind: Hashable) -> None:
        """Runs step(0), ..., step(time - 1).

        Args:
            step: enqueues the step that many behind `first`.
            time: T.
            kind: everything but the contents of tensors and the offset that decides what a step enqueues.
        """
        self.passes[kind] += 1
        if not self._by_graphs(kind):
            for offset in range(time):
                step(offset)
            return
        for block in BLOCKS:
            count, time = divmod(time, block)
            for _ in range(count):
                if (graph := self._graph(step, block, kind)) is None:
                    for offset in range(block):
                        step(offset)
                    self.first.add_(block)
                else:
                    graph.replay()

    def _by_graphs(self, kind: Hashable) -> bool:
        if not self.first.is_cuda or self.refused or is_capturing():
            return False
        return self.passes[kind] > PLAIN_PASSES  # the plain passes have compiled every kernel

    def _graph(self, step: Callable[[int], None], block: int, kind: Hashable) -> "torch.cuda.CUDAGraph | None":
        if (kind, block) not in self.graphs and not self.refused:
            try:
                self.graphs[kind, block] = self._capture(step, block)
            except RuntimeError as error:
                self.refused = True
                log.warning("no CUDA graphs, the recurrence is started step by step: %s", str(error).splitlines()[0])
        return self.graphs.get((kind, block))

    def _capture(self, step: Callable[[int], None], block: int) -> "torch.cuda.CUDAGraph":
        torch.cuda.current_blas_handle()  # each thread has one, which can't be made during a capture
        graph = torch.cuda.CUDAGraph()
        stream, own = _capture_stream(self.first.device), torch.cuda.current_stream(self.first.device)
        # One capture at a time, as they share a stream; a failed one leaves that as the present stream, which `own` ends.
        with _capturing, torch.cuda.stream(own), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            for offset in range(block):
                step(offset)
            self.first.add_(block)
        return graph


_capturing = threading.Lock()


@functools.cache
def _capture_stream(device: torch.device) -> "torch.cuda.Stream":
    """One a device: cuBLAS keeps memory for each stream it meets."""
    return torch.cuda.Stream(device)


def is_capturing() -> bool:
    """Whether the caller is capturing a CUDA graph itself."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
