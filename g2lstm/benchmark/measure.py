"""Time and peak memory of steps.

Times are taken in turns in one process, so that a machine that slows down slows down everyone. Peak memory is taken in a
process of its own for each case, by what the operating system hands out: the work space of libraries counts.
"""

import ctypes
import gc
import multiprocessing
import platform
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from g2lstm.benchmark.cases import Case
from g2lstm.benchmark.steps import Step, prepare, surroundings

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of glibc's mallopt


def alternate(
    cases: Sequence[Case], device: torch.device, *, seconds: float, least: int, most: int = 300, turn: float = 30.0
) -> list[list[float]]:
    """Milliseconds of each step of each case: the cases take turns, again and again.

    Args:
        cases: measured in turns; each round begins with the next one.
        device: where they run.
        seconds: how long to go on.
        least, most: bounds on the number of rounds; two more for warming up come before.
        turn: milliseconds of a turn at least, so that short steps find their weights in the cache, as in real work.
    """
    steps = [prepare(case, device) for case in cases]
    times: list[list[float]] = [[] for _ in cases]
    gc.collect()
    gc.disable()
    try:
        end, rounds = time.perf_counter() + seconds, -2
        while rounds < least or (rounds < most and time.perf_counter() < end):
            for place in range(len(cases)):
                index = (place + rounds) % len(cases)
                with surroundings(cases[index]):
                    taken = _turn(steps[index], device, turn)
                if rounds >= 0:
                    times[index] += taken
            rounds += 1
            if rounds == 0:
                end = time.perf_counter() + seconds
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


def peak_memory(case: Case, device: torch.device, threads: int) -> float | None:
    """MB that a step needs at its peak beyond weights and data; None where the system doesn't tell."""
    if device.type == "cuda":
        return _peak_on_gpu(case, device)
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    context = multiprocessing.get_context("forkserver")  # its server has no threads, which a fork would break
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_peak, args=(case, threads, sender), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:  # killed, as for want of memory
        return None
    finally:
        process.join()


def _report_peak(case: Case, threads: int, sender: Connection) -> None:
    torch.set_num_threads(threads)
    sender.send(_peak_on_cpu(case, torch.device("cpu")))


def _peak_on_cpu(case: Case, device: torch.device) -> float | None:
    """Growth of the resident memory over one step, where it can be told: on Linux with its usual C library."""
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 65536)  # what is freed goes back to the system at once
    libc.mallopt(_TRIM_THRESHOLD, 0)
    with surroundings(case):
        step = prepare(case, device)
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
