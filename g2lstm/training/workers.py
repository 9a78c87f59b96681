"""Several processes that train one model, each on its columns of every batch, as torchrun starts them.

Alone, which is the usual case, every function here does nothing. Worker 0 writes, and says what there is to say.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from g2lstm import columns
from g2lstm.columns import Columns
from g2lstm.errors import UserError

PATIENCE = timedelta(minutes=30)  # of a worker for the others: one of them may prepare data, or translate
MEETING = timedelta(minutes=5)  # the same until all have come
_alone = False
_has_told = False
_group: dist.ProcessGroup | None = None
T = TypeVar("T")


class Ended(Exception):  # noqa: N818 - no error of this process
    """Another worker says why."""


class WorkerError(UserError):
    """Of a worker that is not the first one, and of no other."""


@contextmanager
def joined() -> Iterator[None]:
    """Joins the others where torchrun has started several, and leaves them; within itself it does nothing."""
    global _group
    if not started() or dist.is_initialized():
        yield
        return
    try:
        store, number, total = next(rendezvous("env://", timeout=MEETING))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE,
            store=dist.PrefixStore(met(store, number, total), store), rank=number, world_size=total,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:150]
        raise UserError(
            f"the workers don't find each other ({reason}): start them with torchrun, on one machine with --standalone"
        ) from None
    # Kept to the end of the process: who drops the last reference joins the group's threads, of which one may be waiting for
    # the GIL to drop a tensor. Python's reference releases the GIL meanwhile; DistributedDataParallel's reducer does not.
    _group = dist.group.WORLD
    try:
        yield
    except UserError as error:
        raise error if first() else WorkerError(f"worker {rank()}: {error}") from None
    except RuntimeError as error:  # before there is a run to go on with, or after it
        if not lost(error):
            raise
        if not first():
            raise Ended from None
        raise UserError("a worker has gone: start them again") from None
    finally:
        dist.destroy_process_group()


def met(store: dist.Store, number: int, total: int) -> str:
    """A name that the workers of this attempt share, once all of them are there.

    torchrun keeps its store when it starts workers again, with what those before them left there, and no count of attempts
    is everyone's: one that died before it came here counted less, and torchrun counts on each machine for itself. So the
    first one's name holds, for those whose own names it has answered.

    Raises:
        RuntimeError: some didn't come within `MEETING`.
    """
    own, end = uuid.uuid4().hex, time.monotonic() + MEETING.total_seconds()
    if number == 0:
        keys = [f"g2lstm/{own}/{other}" for other in range(1, total)]
        store.set("g2lstm/first", own)
        store.wait(keys, MEETING)
        store.set(f"g2lstm/{own}", " ".join(store.get(key).decode() for key in keys))
        return own
    while time.monotonic() < end:
        if store.check(["g2lstm/first"]):
            name = store.get("g2lstm/first").decode()
            store.set(f"g2lstm/{name}/{number}", own)
            if store.check([f"g2lstm/{name}"]) and own in store.get(f"g2lstm/{name}").decode():
                return name
        time.sleep(0.02)
    raise RuntimeError("the first one did not come")


def led(lead: Callable[[], T], follow: Callable[[Any], T]) -> T | None:
    """The first worker leads, the others follow what it tells by `tell`, or end with it where it does not come to that.

    Raises:
        Ended: the first worker failed before it told anything.
    """
    global _has_told
    if not first():
        kind, value = _from_first(None)
        if kind == "failed":
            raise Ended
        return follow(value) if kind == "told" else None
    _has_told = False
    kind = "failed"
    try:
        found = lead()
        kind = "finished"
        return found
    finally:
        if not _has_told:
            _from_first((kind, None))


def tell(value: Any) -> None:
    """The first worker tells those who wait in `led`."""
    global _has_told
    if not _has_told and not _alone:
        _has_told = True
        _from_first(("told", value))


def started() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def count() -> int:
    """How many there are."""
    return 1 if _alone or not dist.is_available() or not dist.is_initialized() else dist.get_world_size()


def rank() -> int:
    """The number of this one, from 0."""
    return 0 if count() == 1 else dist.get_rank()


def first() -> bool:
    """Whether this one writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0 or not started()


@contextmanager
def alone() -> Iterator[None]:
    """Meanwhile this one works without the others."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


def part(total: int) -> Columns:
    """The columns of a batch that are this worker's."""
    return columns.split(total, rank(), count())


def wrapped(criterion: nn.Module, device: torch.device) -> nn.Module:
    """A module that computes a loss, so that its backward pass ends with the mean of all workers' gradients."""
    if count() == 1:
        return criterion
    ids = [device.index or 0] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(criterion, device_ids=ids)


@contextmanager
def exchanging(criterion: nn.Module, now: bool) -> Iterator[None]:
    """Gradients are exchanged in the backward passes of forward passes made here only if `now`; else they are kept."""
    if now or not isinstance(criterion, nn.parallel.DistributedDataParallel):
        yield
    else:
        with criterion.no_sync():
            yield


def summed(values: Tensor) -> Tensor:
    """The sum over workers."""
    if count() > 1:
        dist.all_reduce(values)
    return values


def anyone(*flags: bool) -> list[bool]:
    """For each flag, whether it is true for any worker."""
    if count() == 1:
        return list(flags)
    found = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in found]


def everyones(value: Any) -> list[Any]:
    """What each of the workers has."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value)
    return found


def side_by_side(tree: Any, dim: int = 1) -> Any:
    """The tensors of all workers joined by their columns, in lists and tuples as they stand."""
    if count() == 1 or tree is None:
        return tree
    if isinstance(tree, Tensor):
        return torch.cat(everyones(tree.cpu()), dim).to(tree.device)
    return type(tree)(side_by_side(branch, dim) for branch in tree)


def own_columns(tree: Any, dim: int = 1) -> Any:
    """The reverse of `side_by_side`."""
    if count() == 1 or tree is None:
        return tree
    if isinstance(tree, Tensor):
        return part(tree.shape[dim]).of(tree, dim).clone()
    return type(tree)(own_columns(branch, dim) for branch in tree)


def _from_first(value: Any) -> Any:
    box = [value]
    if count() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def wait() -> None:
    """Until all have come here."""
    everyones(None)


@contextmanager
def all_or_none() -> Iterator[None]:
    """What fails for one worker fails for all; the first one says it."""
    problem: Exception | None = None
    try:
        yield
    except (UserError, OSError) as error:
        if count() == 1:
            raise
        problem = error
    problems = [(number, str(one)) for number, one in enumerate(everyones(problem)) if one is not None]
    if problems:
        number, text = problems[0]
        if not first():
            raise Ended
        raise UserError(f"worker {number}: {text}" if number else text) from problem


def lost(error: RuntimeError) -> bool:
    """Whether an error says that another worker has gone."""
    return count() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error))
