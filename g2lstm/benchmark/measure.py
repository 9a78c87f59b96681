"""Time and peak memory of steps.

Times are taken in turns in one process, so that a machine that slows down slows down everyone. Peak memory is taken in a
process of its own for each case, by what the operating system hands out: the work space of libraries counts.
"""

import ctypes
import gc
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import torch

from g2lstm.benchmark.cases import LOOP, Case, Group
from g2lstm.benchmark.deployed import file_bytes
from g2lstm.benchmark.rows import Row, rows_of
from g2lstm.benchmark.steps import Step, prepare

CPU = torch.device("cpu")
MOST_ROUNDS = 300
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of glibc's mallopt


def measure(group: Group, device: torch.device, *, quick: bool = False, seconds: float | None = None) -> list[Row]:
    """The rows of a group; with `quick` fewer repeats, and no peak memory. It is measured for so many `seconds`."""
    times = alternate(group.cases, device, seconds=seconds or (0.5 if quick else 4.0), least=3 if quick else 4)
    weighed = [case.mode == "train" and case.engine not in ("reference", LOOP) and not quick for case in group.cases]
    memory = [peak_memory(case, device) if yes else None for case, yes in zip(group.cases, weighed, strict=True)]
    files = [file_bytes(case) if case.task == "deploy" else None for case in group.cases]
    return rows_of(group, times, memory, files)


def alternate(
    cases: Sequence[Case], device: torch.device, *, seconds: float, least: int, turn: float = 30.0
) -> list[list[float]]:
    """Milliseconds of each step of each case, as `in_turns` has them."""
    return in_turns([prepare(case, device) for case in cases], device, seconds=seconds, least=least, turn=turn)


def in_turns(
    steps: Sequence[Step], device: torch.device, *, seconds: float, least: int, turn: float = 30.0
) -> list[list[float]]:
    """Milliseconds of each call of each step: they take turns, again and again.

    Args:
        steps: measured in turns; each round begins with the next one.
        device: where they run.
        seconds: how long to go on.
        least: number of rounds at least; two more for warming up come before.
        turn: milliseconds of a turn at least, so that short steps find their weights in the cache, as in real work.
    """
    times: list[list[float]] = [[] for _ in steps]
    gc.collect()
    gc.disable()
    try:
        end = 0.0
        for number in range(-2, MOST_ROUNDS):
            if number == 0:
                end = time.perf_counter() + seconds
            if number >= least and time.perf_counter() > end:
                break
            for place in range(len(steps)):
                index = (place + number) % len(steps)
                taken = _turn(steps[index], device, turn)
                if number >= 0:
                    times[index] += taken
    finally:
        gc.enable()
    return times


def _turn(step: Step, device: torch.device, least: float) -> list[float]:
    """Milliseconds of one step or several, until the sum is at least `least`."""
    times: list[float] = []
    while not times or sum(times) < least:
        _wait_for(device)
        started = time.perf_counter()
        step()
        _wait_for(device)
        times.append(1000 * (time.perf_counter() - started))
    return times


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(case: Case, device: torch.device) -> float | None:
    """MB that a step needs at its peak beyond weights and data; None where the system doesn't tell."""
    if device.type == "cuda":
        return _peak_on_gpu(case, device)
    if platform.libc_ver()[0] != "glibc":
        return None
    context = get_context("forkserver")  # its server has no threads, which a fork would break
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context) as pool:
        try:
            return pool.submit(_peak_on_cpu, case, torch.get_num_threads()).result()
        except BrokenProcessPool:  # killed, as for want of memory
            return None


def _peak_on_cpu(case: Case, threads: int) -> float | None:
    """Growth of the resident memory over one step, on Linux with its usual C library."""
    torch.set_num_threads(threads)
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 65536)  # what is freed goes back to the system at once
    libc.mallopt(_TRIM_THRESHOLD, 0)
    step = prepare(case, CPU)
    step()  # what libraries keep once and for all, some MB of code, is left out
    gc.collect()
    libc.malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    except OSError:
        return None
    before = _resident_memory("VmRSS")
    step()
    return (_resident_memory("VmHWM") - before) / 1024


def _resident_memory(name: str) -> int:
    """kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _peak_on_gpu(case: Case, device: torch.device) -> float:
    step = prepare(case, device)
    step()
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20
