"""What is measured, in which order and how long, and the whole passes over it."""

import importlib.util
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from g2lstm.benchmark import cases
from g2lstm.benchmark.cases import AUTO, CHUNKED_LOSS, LOOP, LSTM, PLAIN_LOSS, SIZES, Case, Group, Size
from g2lstm.benchmark.deployed import file_bytes
from g2lstm.benchmark.measure import alternate, peak_memory
from g2lstm.benchmark.rows import Row, over_passes, rows_of
from g2lstm.engines import FASTEST_FIRST

QUICK_SIZES = (SIZES[0], *SIZES[3:])
QUICK_SECONDS = 42.0  # no group begins later; the last one may take some seconds more


@dataclass(frozen=True)
class Plan:
    """What is measured, and how long."""

    groups: list[Group]  # in this order
    seconds: float = 4.0  # for each group's steps
    least: int = 4  # rounds of each group at least
    # measure peak memory of nn.LSTM and "auto" at the largest sizes only, not of every training step
    few_memories: bool = False
    limit: float = float("inf")  # no group begins after so many seconds of a pass
    left_out: tuple[str, ...] = ()  # what the plan does without


class Progress(NamedTuple):
    """What is there after a group: its rows, all rows so far, titles without any, groups done and to do, seconds left."""

    group: Group
    fresh: list[Row]
    rows: list[Row]
    missing: list[str]
    done: int
    total: int
    left: float


def make_plan(device: torch.device, sections: Sequence[str], sizes: list[Size] | None, *, quick: bool) -> Plan:
    """The whole comparison, or as much of it as a minute holds."""
    engines = [name for name in FASTEST_FIRST if name != "reference"] if quick else None
    onnx = all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))
    left_out: tuple[str, ...] = ("onnxruntime, which is not installed",) if "deploy" in sections and not onnx else ()
    found = {
        "recurrence": cases.recurrence_groups(sizes or (QUICK_SIZES if quick else SIZES), device, engines),
        "output_layer": [cases.output_layer_group()],
        "end_to_end": cases.token_groups(device, engines=engines) + ([] if quick else cases.ptb_groups()),
        "evaluation": [] if quick else [cases.evaluation_group()],
        "deploy": [] if quick or device.type != "cpu" else [cases.deploy_group(onnx=onnx)],
    }
    groups = [group for section, members in found.items() if section in sections for group in members]
    if not quick:
        return Plan(groups, left_out=left_out)
    groups.sort(key=_expected_work)  # what a slow machine does not reach is what takes longest
    without = ", ".join(str(size) for size in SIZES if size not in QUICK_SIZES)
    left_out += (f"by --quick the sizes {without}", "the reference engine", "the step of task=ptb", "its evaluation")
    left_out += ("compressed models", "most of the peak memory")
    return Plan(groups, seconds=0.5, least=3, few_memories=True, limit=QUICK_SECONDS, left_out=left_out)


def run(plan: Plan, device: torch.device, passes: int = 1) -> Iterator[Progress]:
    """Measures all groups `passes` times, one whole pass after the other, so that what slows the machine down for a while
    shows as a range."""
    expected = [_expected_seconds(group, plan) for group in plan.groups] * passes
    found: dict[Group, list[list[Row]]] = {group: [] for group in plan.groups}
    first, done = time.monotonic(), 0
    for _ in range(passes):
        started = time.monotonic()
        for group in plan.groups:
            done += 1
            if time.monotonic() - started > plan.limit:
                continue
            times = alternate(group.cases, device, seconds=plan.seconds, least=plan.least)
            threads, wanted = torch.get_num_threads(), [_wants_memory(case, plan) for case in group.cases]
            memory = [peak_memory(c, device, threads) if w else None for c, w in zip(group.cases, wanted, strict=True)]
            files = [file_bytes(case) for case in group.cases] if group.cases[0].section == "deploy" else None
            fresh = rows_of(group, times, memory, files)
            found[group].append(fresh)
            rows = [over_passes(of_case) for lists in found.values() for of_case in zip(*lists, strict=True)]
            left = (time.monotonic() - first) / sum(expected[:done]) * sum(expected[done:])
            missing = [group.title for group, lists in found.items() if not lists]
            yield Progress(group, fresh, rows, missing, done, len(expected), left)


def _wants_memory(case: Case, plan: Plan) -> bool:
    few = case.engine in (LSTM, AUTO, PLAIN_LOSS, CHUNKED_LOSS) and case.size[3] >= 1000
    ours = case.engine not in ("reference", LOOP)
    return case.mode == "train" and (few or (ours and not plan.few_memories))


def _expected_seconds(group: Group, plan: Plan) -> float:
    """A guess that only has to be right in proportion."""
    processes = sum(_wants_memory(case, plan) for case in group.cases)
    return 1.0 + max(plan.seconds, (plan.least + 2) * _expected_work(group)) + processes * 2.0


def _expected_work(group: Group) -> float:
    """Seconds of one round, guessed from the multiplications."""
    total = 0.0
    for case in group.cases:
        time_, batch, inputs, hidden = case.size
        products = 8 * (inputs + hidden) * hidden if case.task != "loss" else 2 * inputs * hidden
        work = time_ * batch * products * (3 if case.mode == "train" else 1) * (4 if case.task == "ptb" else 1)
        total += work / (2e11 if case.dtype == "float32" else 4e11)
    return total
