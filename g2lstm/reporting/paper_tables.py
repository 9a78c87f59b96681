"""The paper's tables beside what is recorded of the runs that stand for them, as `conf/reproduction.yaml` says."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from g2lstm.compression import sweep
from g2lstm.data.pair_sources import APART
from g2lstm.reporting.comparison import mean_interval, sign_flip_test
from g2lstm.reporting.figures import gate_label
from g2lstm.reporting.run_tables import BASELINE, ONE_SEED
from g2lstm.reporting.tables import SPREAD, interval, markdown, number, spread
from g2lstm.runs.compose import compose, leaves
from g2lstm.runs.config import NO_NUMBERS
from g2lstm.runs.members import Plan, Table
from g2lstm.runs.run import Run

OURS = 2  # digits of what we measured
FOOTNOTE = (
    f"Ours: {SPREAD} over seeds; of differences the mean with its 95% t-interval and the p of an exact sign-flip test."
)
Values = dict[int, float]  # by seed


def recorded(name: str, results: Path, plan: Plan | None = None) -> str:
    """A table of the paper: its values and ours by gate, differences from the plain LSTM, and what ours were measured on."""
    plan = plan or Plan.load()
    table = plan.tables[name]
    paper = {gate: [Values() if value is None else {0: value} for value in row] for gate, row in table.paper.items()}
    found = {experiment: _values(plan, name, experiment, results) for experiment in table.ours}
    found = {experiment: values for experiment, values in found.items() if any(map(any, values.values()))}
    lines = [[table.title, *table.columns, "runs"]]
    less = [["difference from the plain LSTM, paired by seed", *table.columns, "n"]]
    for source, values in {"the paper": paper, **found}.items():
        digits, ours = (OURS, True) if source in found else (table.digits, False)
        for gate, cells in values.items():
            title, most = f"{gate_label(gate)}, " + (f"`{source}`" if ours else source), max(map(len, cells))
            runs = f"{most} of {len(plan.experiments[source].seeds)}" if ours else ""
            lines.append([title, *(spread(list(cell.values()), digits) for cell in cells), runs])
            if gate != BASELINE:
                paired = [_paired(cell, plain) for cell, plain in zip(cells, values[BASELINE], strict=True)]
                most = max(map(len, paired))
                less.append([title, *(_difference(one, digits, ours=ours) for one in paired), str(most) if ours else ""])
    notes = [_note(plan, experiment, results, table.compression) for experiment in found]
    missing = {name: _in_part(table, name, results) for name in table.ours if name not in found}
    for title, in_part in (("Not recorded yet", False), ("Recorded on a part of test, which is not shown here", True)):
        names = ", ".join(f"`{name}`" for name, part in missing.items() if part == in_part)
        notes += [f"- {title}: {names}."] if names else []
    parts = [markdown(lines), *([markdown(less, FOOTNOTE)] if found else []), "\n".join(notes)]
    return "\n\n".join(part for part in parts if part)


def measured_cells(plan: Plan, name: str, experiment: str, results: Path) -> tuple[int, int]:
    """How many cells of a table have a value of an experiment, over gates and seeds, and how many there are."""
    values = _values(plan, name, experiment, results)
    columns = sum(key is not None for key in plan.tables[name].ours[experiment])
    return sum(len(cell) for cells in values.values() for cell in cells), columns * len(plan.members(experiment))


def _values(plan: Plan, name: str, experiment: str, results: Path) -> dict[str, list[Values]]:
    """Of each gate, by column and seed."""
    table, found = plan.tables[name], {gate: [Values() for _ in plan.tables[name].columns] for gate in plan.gates}
    rows = _swept(results, experiment, table.compression) if table.compression is not None else {}
    for member in plan.members(experiment):
        folder = results / member.name
        summary = Run.open(folder).summary if (folder / "summary.json").is_file() else {}
        source: dict[Any, Any] = summary if table.compression is None else rows.get((member.gate, member.seed), {})
        for cell, key in zip(found[member.gate], table.ours[experiment], strict=True):
            if isinstance(source.get(key), int | float):
                cell[member.seed] = source[key]
    return found


def _in_part(table: Table, experiment: str, results: Path) -> bool:
    """Whether a sweep has settings of a table on the beginning of test."""
    if table.compression is None:
        return False
    swept = _swept(results, experiment, table.compression, part=True)
    return any(key in values for values in swept.values() for key in table.ours[experiment])


def _swept(results: Path, experiment: str, variant: str, *, part: bool = False) -> dict[tuple[str, int], dict[str, float]]:
    """The values on all of test, or on a part, by gate and seed, and by setting."""
    rows = sweep.open_store(results / "compression" / experiment / "sweep.json").all()
    rows = [row for row in rows if row["split"] == "test" and (row.get("limit") is not None) == part]
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in sweep.of_one_target(rows) if rows else ():
        if row["variant"] == variant:
            found.setdefault((row["gate"], row["seed"]), {})[row["setting"]] = row["value"]
    return found


def _paired(cell: Values, plain: Values) -> list[float]:
    return [cell[seed] - plain[seed] for seed in cell if seed in plain]


def _difference(found: list[float], digits: int, *, ours: bool) -> str:
    """The mean with its interval and a test; the paper has no seeds."""
    text = number(mean(found) if found else None, digits, "+")
    if not found or not ours:
        return text
    span = mean_interval(found)
    return f"{text} ({interval(*span, digits, '+')}; p {sign_flip_test(found):.2g})" if span else f"{text} ({ONE_SEED})"


def _note(plan: Plan, experiment: str, results: Path, compression: str | None) -> str:
    """What the runs of an experiment ran on, and in what they differ from the paper's configuration."""
    runs = [Run.open(results / member.name) for member in plan.members(experiment) if (results / member.name).is_dir()]
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))
    where = "; ".join(sorted({f"{run.summary.get('hardware')}, torch {run.summary.get('torch')}" for run in runs}))
    rounded = sum("rounded" in run.folder.read_json("environment.json") for run in runs)
    text = f"- `{experiment}`: seeds {seeds}; {where}."
    if rounded:
        text += f" {rounded} of the {len(runs)} runs went on from rounded weights (their environment.json says how)."
    about = plan.experiments[experiment]
    if about.smaller_than and compression is None:
        differ = _unlike(runs, _options(tuple(plan.experiments[about.smaller_than].options)))
        differ += sorted({part for run in runs if (part := _part(run))})
        text += f" Unlike the paper's size: {', '.join(differ)}."
    return text


def _unlike(runs: Sequence[Run], theirs: dict[str, Any]) -> list[str]:
    """Options in which runs differ from others, as their own configs have them: conf/ may have changed since."""
    values: dict[str, list[Any]] = {}
    for run in runs:
        for name, value in _numbers(run.own_config.values).items():
            seen = values.setdefault(name, [])
            if value not in seen:
                seen.append(value)
    return [
        f"`{name}` {' or '.join(map(str, seen))} for {theirs[name]}"
        for name, seen in values.items()
        if name in theirs and seen != [theirs[name]]
    ]


def _part(run: Run) -> str | None:
    """How much of a training text a run had, where it was a part."""
    known, whole = run.summary, run.summary.get("train_pairs_of_whole", 0)
    if sum(known.get(key, 0) for key in ("train_pairs", "dropped_long", "dropped_empty")) >= (1 - APART) * whole:
        return None
    return f"{known['train_pairs']:,} training pairs for the {whole:,} of the whole text"


@cache
def _options(overrides: tuple[str, ...]) -> dict[str, Any]:
    """What a command line asks for of what changes a number."""
    return _numbers(compose(list(overrides)))


def _numbers(config: dict[str, Any]) -> dict[str, Any]:
    """Options by name: all that change a number but the seed and those of the gate."""
    left_out = (*NO_NUMBERS, "seed", "run_name", "overrides", "experiment_name")
    return {
        name: value
        for name, value in leaves(config).items()
        if name not in left_out and not name.startswith(("task.", "tracker.", "gate."))
    }
