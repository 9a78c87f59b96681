"""How fast G2LSTM is beside nn.LSTM: python experiments/speed.py, or --quick; docs/performance.md explains it."""

import argparse
import importlib.util
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports shows no traceback

import torch
from rich.console import Console

from g2lstm import build, cli
from g2lstm.benchmark.cases import (
    AUTO,
    CHUNKED_LOSS,
    LOOP,
    LSTM,
    PLAIN_LOSS,
    SECTIONS,
    SIZES,
    Case,
    Group,
    Size,
    deploy_group,
    evaluation_group,
    output_layer_group,
    ptb_groups,
    recurrence_groups,
    token_groups,
)
from g2lstm.benchmark.deployed import file_bytes
from g2lstm.benchmark.measure import alternate, peak_memory
from g2lstm.benchmark.report import Row, rows_of, screen_table, summary, with_files
from g2lstm.engines import FASTEST_FIRST
from g2lstm.errors import UserError
from g2lstm.files import write_atomically
from g2lstm.training.environment import environment
from g2lstm.training.progress import duration, say

QUICK_SIZES = (SIZES[0], *SIZES[3:])
QUICK_SECONDS = 42.0  # no group begins later; the last one may take some seconds more


@dataclass(frozen=True)
class Plan:
    """What is measured, and how long.

    Attributes:
        groups: in this order.
        seconds: for each group's steps.
        least: rounds of each group at least.
        few_memories: measure peak memory of nn.LSTM and "auto" at the largest sizes only, not of every training step.
        limit: no group begins after so many seconds.
    """

    groups: list[Group]
    seconds: float = 4.0
    least: int = 4
    few_memories: bool = False
    limit: float = float("inf")


def speed(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    console = Console()
    device = build.build_device(options.device)
    torch.set_num_threads(options.threads or min(2, os.cpu_count() or 1))
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as cuDNN's LSTM has it from the start
    plan = make_plan(device, _sections(options.sections), _sizes(options.sizes), quick=options.quick)
    found = environment(device, "auto")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    say(console, f"{found['hardware']}, torch {found['torch']}, {found['threads']} threads; {len(plan.groups)} groups")
    if load > 0.5:
        say(console, f"warning: other work is running here (load {load:.1f}): times will be too long, and ratios uncertain")
    content: dict[str, Any] = {key: found[key] for key in ("hardware", "torch", "threads", "g2lstm", "commit", "python")}
    content |= {"device": device.type, "tf32": device.type == "cuda", "load": round(load, 2), "quick": options.quick}

    kept = _rows_of_before(options.json, content)

    def save(rows: list[Row], left_out: list[str]) -> None:
        """After each group, so that an interrupted measurement keeps what it has, and says what it lacks."""
        fresh = [row | {"commit": found["commit"]} for row in rows]
        measured = {_key(row) for row in fresh}
        together = [row for row in kept if _key(row) not in measured] + fresh
        content.update(left_out=_always_left_out(options) + left_out, summary=summary(together), rows=together)
        if options.json is not None:
            write_atomically(options.json, json.dumps(content, indent=1) + "\n")

    run(plan, device, console, save)
    for name, value in content["summary"].items():
        say(console, f"float32, geometric mean over the sizes: {name.replace('_', ' ')} {value:.2f}")
    if content["left_out"]:
        say(console, f"left out: {'; '.join(content['left_out'])}")
    if options.json is not None:
        say(console, f"wrote {options.json}")
    return 0


def make_plan(device: torch.device, sections: list[str], sizes: list[Size] | None, *, quick: bool) -> Plan:
    """The whole comparison, or as much of it as a minute holds."""
    engines = [name for name in FASTEST_FIRST if name != "reference"] if quick else None
    groups: list[Group] = []
    if "recurrence" in sections:
        groups += recurrence_groups(sizes or (QUICK_SIZES if quick else SIZES), device, engines)
    if "output_layer" in sections:
        groups.append(output_layer_group())
    if "end_to_end" in sections:
        groups += token_groups(device, engines=engines)
        groups += [] if quick else ptb_groups()
    if "evaluation" in sections and not quick:
        groups.append(evaluation_group())
    if "deploy" in sections and device.type == "cpu" and not quick:
        groups.append(deploy_group(onnx=_onnx_is_there()))
    if quick:
        groups.sort(key=_expected_work)  # what a slow machine does not reach is what takes longest
        return Plan(groups, seconds=0.5, least=3, few_memories=True, limit=QUICK_SECONDS)
    return Plan(groups)


def run(plan: Plan, device: torch.device, console: Console, save: Callable[[list[Row], list[str]], None]) -> None:
    """Measures a plan's groups, prints each as soon as it is done, and saves the rows and what is not done yet."""
    rows: list[Row] = []
    save(rows, [group.title for group in plan.groups])
    started = time.monotonic()
    expected = [_expected_seconds(group, plan) for group in plan.groups]
    for number, group in enumerate(plan.groups):
        elapsed = time.monotonic() - started
        if elapsed > plan.limit:
            return
        times = alternate(group.cases, device, seconds=plan.seconds, least=plan.least)
        memory = [_memory(case, plan, device) for case in group.cases]
        new = rows_of(group, times, memory)
        if group.cases[0].section == "deploy":
            new = with_files(new, [file_bytes(case) for case in group.cases])
        rows += new
        save(rows, [group.title for group in plan.groups[number + 1 :]])
        elapsed, done = time.monotonic() - started, sum(expected[: number + 1])
        console.print(screen_table(group, new))
        say(console, f"{number + 1}/{len(plan.groups)}  ETA {duration(elapsed / done * sum(expected[number + 1 :]))}\n")


def _memory(case: Case, plan: Plan, device: torch.device) -> float | None:
    return peak_memory(case, device, torch.get_num_threads()) if _wants_memory(case, plan) else None


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


def _rows_of_before(file: Path | None, content: dict[str, Any]) -> list[Row]:
    """What the file holds from an equal machine: new rows take the place of theirs, the others stay."""
    if file is None or not file.exists():
        return []
    old = json.loads(file.read_text())
    same = all(old.get(key) == content[key] for key in ("hardware", "torch", "threads", "device", "quick"))
    return [{"commit": old["commit"]} | row for row in old["rows"]] if same else []


def _key(row: Row) -> tuple[Any, ...]:
    return (row["section"], row["task"], *row["size"], row["dtype"], row["mode"], row["engine"])


def _always_left_out(options: argparse.Namespace) -> list[str]:
    """What these options leave out from the start."""
    missing = "deploy" in options.sections and not _onnx_is_there()
    found = ["onnxruntime, which is not installed"] if missing else []
    if options.quick:
        sizes = ", ".join(str(size) for size in SIZES if size not in QUICK_SIZES)
        found += [f"by --quick the sizes {sizes}", "the reference engine", "the step of task=ptb", "its evaluation"]
        found += ["compressed models", "most of the peak memory"]
    return found


def _onnx_is_there() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def _sections(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise UserError(f"sections must be of {', '.join(SECTIONS)}, got {name!r}")
    return names


def _sizes(text: str | None) -> list[Size] | None:
    """ "70x20x400x1150,40x64x256x256" -> [(70, 20, 400, 1150), (40, 64, 256, 256)]"""
    if text is None:
        return None
    sizes: list[Size] = []
    for part in text.split(","):
        numbers = [int(number) if number.isdecimal() else 0 for number in part.split("x")]
        if len(numbers) != 4 or min(numbers) < 1:
            raise UserError(f"sizes are written TxBxDxH, as 70x20x400x1150, got {part!r}")
        sizes.append((numbers[0], numbers[1], numbers[2], numbers[3]))
    return sizes


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(prog="experiments/speed.py", description="Times G2LSTM beside nn.LSTM and a loop over time.")
    parser.add_argument("--json", type=cli.file, metavar="FILE", help="write what was measured")
    parser.add_argument("--quick", action="store_true", help="a minute on two cores: fewer sizes and repeats")
    parser.add_argument("--threads", type=cli.positive, metavar="N", help="CPU threads; 2 without it")
    parser.add_argument("--sections", default=",".join(SECTIONS), metavar="LIST", help="%(default)s")
    parser.add_argument("--sizes", metavar="TxBxDxH,...", help="of the recurrence; five without it")
    parser.add_argument("--device", default="auto")
    return parser


if __name__ == "__main__":
    cli.main(speed)
