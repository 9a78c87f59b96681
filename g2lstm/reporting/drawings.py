"""What models found beyond numbers, as figures: a type of finding has a function in a file of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from g2lstm.reporting.confusion import draw_confusion
from g2lstm.reporting.figures import gate_label
from g2lstm.reporting.forecasts import draw_forecast
from g2lstm.reporting.run_tables import Groups
from g2lstm.runs.run import blamed
from g2lstm.training.findings import Confusion, Finding, Forecast

# Each gets a finding and what its model is called, and gives figures by their short names; a title is a caption too.
DRAW: dict[type, Callable[[Any, str], dict[str, Figure]]] = {Confusion: draw_confusion, Forecast: draw_forecast}


def findings_of(groups: Groups) -> dict[str, list[Finding]]:
    """What the first run of each gate shows of test."""
    found = {}
    for name, (run, *_) in groups.items():
        with blamed(run):
            task = run.task()
            found[name] = task.findings(run.model(task), "test")
    return found


def drawings(findings: Mapping[str, Sequence[Finding]]) -> dict[str, Figure]:
    """The figures of each gate's findings by the names of their files, as "gumbel-confusion"."""
    return {
        f"{gate.replace('/', '-')}-{name}": figure
        for gate, found in findings.items()
        for finding in found
        for name, figure in DRAW[type(finding)](finding, gate_label(gate)).items()
    }
