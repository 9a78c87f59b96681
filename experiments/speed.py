"""How fast G2LSTM is beside nn.LSTM: python experiments/speed.py, or --quick; docs/performance.md explains it."""

import os
import time

import interrupts  # noqa: F401 first of all
import torch
from rich.console import Console

from g2lstm import cli
from g2lstm.benchmark.cases import SECTIONS, chosen_sections, left_out, parse_sizes, planned
from g2lstm.benchmark.measure import measure
from g2lstm.benchmark.speed_file import SpeedFile
from g2lstm.reporting.speed_tables import IDLE, group_table
from g2lstm.runs.device import build_device
from g2lstm.training.progress import duration, say

QUICK_SECONDS = 42.0  # with --quick no group begins later; the last one may take some seconds more


def speed(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    console, device, sections = Console(), build_device(options.device), chosen_sections(options.sections)
    torch.set_num_threads(options.threads or min(2, os.cpu_count() or 1))
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as cuDNN's LSTM has it from the start
    groups = planned(sections, device, options.sizes and parse_sizes(options.sizes), quick=options.quick)
    file = SpeedFile(options.json, groups, left_out(sections, device, quick=options.quick), device, quick=options.quick)
    content = file.content
    about = f"{content['hardware']}, torch {content['torch']}, {content['threads']} threads"
    say(console, f"{about}; {len(groups)} groups")
    if (load := content["load"]) > IDLE:
        say(console, f"warning: other work is running here (load {load:.1f}): times will be too long, and ratios uncertain")
    started, total = time.monotonic(), len(groups) * options.passes
    for done, group in enumerate(groups * options.passes, 1):  # whole passes: what slows the machine for a while is a range
        if options.quick and time.monotonic() - started > QUICK_SECONDS * options.passes:
            break
        fresh = measure(group, device, quick=options.quick, seconds=options.seconds)
        file.add(group, fresh)
        console.print(group_table(group.title, fresh))
        say(console, f"{done}/{total}  ETA {duration((time.monotonic() - started) / done * (total - done))}\n")
    if content["left_out"]:
        say(console, f"left out: {'; '.join(content['left_out'])}")
    if options.json is not None:
        say(console, f"wrote {options.json}")
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(prog="experiments/speed.py", description="Times G2LSTM beside nn.LSTM and a loop over time.")
    parser.add_argument("--json", type=cli.file, metavar="FILE", help="write what was measured")
    parser.add_argument("--quick", action="store_true", help="a minute on two cores: fewer sizes and repeats")
    parser.add_argument("--passes", type=cli.positive, default=1, metavar="N", help="measure everything so many times")
    parser.add_argument("--seconds", type=cli.positive, metavar="S", help="for each group in a pass; 4 without it")
    parser.add_argument("--threads", type=cli.threads, metavar="N", help="CPU threads; 2 without it")
    parser.add_argument("--sections", default=",".join(SECTIONS), metavar="LIST", help="%(default)s")
    parser.add_argument("--sizes", metavar="TxBxDxH,...", help="of the recurrence; five without it")
    parser.add_argument("--device", default="auto")
    return parser


if __name__ == "__main__":
    cli.main(speed)
