"""A batch of which this process has some columns, and random draws that are the same however a batch is shared out.

Several processes that train one model, each on its columns of a batch, draw for the whole batch from generators in the same
state and keep their own columns. So W of them follow the same curve as one does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """Sequences `first` to `first + count - 1` of a batch of `total`.

    Attributes:
        idle: they are another's too, which counts them: there are fewer sequences than processes.
    """

    first: int
    count: int
    total: int
    idle: bool = False

    @property
    def share(self) -> float:
        """Of the batch; 0 where idle."""
        return 0.0 if self.idle else self.count / self.total

    def of(self, x: Tensor, dim: int = 1) -> Tensor:
        """The columns of a tensor with the whole batch in a dimension."""
        return x.narrow(dim, self.first, self.count)

    @contextmanager
    def drawn(self, steps: int | None = None) -> Iterator[None]:
        """What is drawn meanwhile is drawn for the whole batch, and for the `steps` that packed sequences have there."""
        global _present, _steps
        before = _present, _steps
        _present, _steps = (None, None) if self.count == self.total else (self, steps)
        try:
            yield
        finally:
            _present, _steps = before


_present: Columns | None = None
_steps: int | None = None


def split(total: int, part: int, parts: int) -> Columns:
    """The columns of one of several processes, of widths that differ by 1 at most; the first column where none is left."""
    width, wider = divmod(total, parts)
    count = width + (part < wider)
    return Columns(part * width + min(part, wider), count, total) if count else Columns(0, 1, total, idle=True)


def present() -> Columns | None:
    """Of which batch the columns now computed are; None where they are all of it."""
    return _present


def packed_steps() -> int | None:
    """How many steps the longest of the packed sequences has in the whole batch; None where they are all of it."""
    return _steps


def draw(shape: tuple[int, ...], dim: int, drawn: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
    """`drawn(shape)`, or the present columns of what it draws for the whole batch, which is in dimension `dim`."""
    if _present is None:
        return drawn(shape)
    if shape[dim] != _present.count:
        raise ValueError(f"a draw of shape {shape} for {_present} has not as many in dimension {dim}")
    return _present.of(drawn((*shape[:dim], _present.total, *shape[dim + 1 :])), dim)
