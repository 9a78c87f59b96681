"""What profile=true found, as tables and as a figure of one step: python experiments/step_trace.py run=RUN_DIR."""

from pathlib import Path

import interrupts  # noqa: F401 first of all
from rich.console import Console

from g2lstm import cli
from g2lstm.files import write_atomically
from g2lstm.reporting import profiles
from g2lstm.reporting.figures import save_figure
from g2lstm.reporting.tables import screen_table
from g2lstm.training.profiling import TRACE
from g2lstm.training.progress import say


def step_trace(arguments: list[str]) -> int:
    parser = cli.OptionParser(prog="experiments/step_trace.py", description="Shows where the time of a profiled run went.")
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", help=f"a run's folder, or its {TRACE}")
    parser.add_argument("--out", type=cli.folder, metavar="DIR", help="where a copy and the figure go; the run without it")
    options, console = parser.parse_options(arguments), Console()
    found = profiles.read_trace(options.run)
    for kind in profiles.TABLES:
        console.print(screen_table(kind, profiles.lines(found["g2lstm"], kind)), profiles.footnote(found["g2lstm"]) + "\n")
    source = options.run / TRACE if options.run.is_dir() else options.run
    out = options.out or source.parent
    if out != source.parent:
        write_atomically(out / TRACE, source.read_bytes())
    say(console, "wrote " + ", ".join(map(str, save_figure(profiles.draw_step(found), out, "step"))))
    return 0


if __name__ == "__main__":
    cli.main(step_trace)
