"""The forecasting task by itself: which rows are read and forecast, what is compared with what, and new data."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from g2lstm.data.scaling import Scaling
from g2lstm.errors import UserError
from g2lstm.gates import SigmoidGate
from g2lstm.reporting.forecasts import draw_forecast
from g2lstm.runs.compose import compose
from g2lstm.schema import checked
from g2lstm.tasks.series import SeriesConfig, SeriesTask

SIZES = ["window=12", "horizon=4", "burn_in=4", "stride=1", "batch_size=16", "model.hidden_size=6", "data.season=5"]
ROWS = 120
composed = cache(lambda *options: compose([*options]))  # takes a while


def task_of(*options: str, files=None) -> SeriesTask:
    values = composed("task=series", *SIZES, *options)
    config = checked({name: values[name] for name in SeriesConfig.__dataclass_fields__}, SeriesConfig)
    return SeriesTask.from_config(config, gate=SigmoidGate(), device=torch.device("cpu"), files=files)


def write(path, values, header="when,a,b", first="2024-01-01") -> str:
    first, day = np.datetime64(first), np.timedelta64(1, "D")
    lines = [f"{first + place * day},{','.join(map(str, row))}" for place, row in enumerate(values)]
    path.write_text("\n".join([header, *lines]) + "\n")
    return f"data.file={path}"


@pytest.fixture
def walk(tmp_path):
    """A file of two random walks of 120 days, and their numbers."""
    values = np.random.default_rng(1).normal(size=(ROWS, 2)).cumsum(0).round(3)
    return write(tmp_path / "walk.csv", values), values


class Sloped(nn.Module):
    """Says that each target goes on by its slope."""

    def __init__(self, slopes, horizon: int) -> None:
        super().__init__()
        self.ahead = torch.arange(1, horizon + 1)[:, None] * torch.tensor(slopes)  # (P, K)

    def forward(self, x, steps: int = 1):
        return x[-steps:, :, None, : self.ahead.shape[1]] + self.ahead


def test_numbers_are_of_train_alone_also_where_a_column_without_use_hid_rows(tmp_path):
    """Half of the rows come back once the constant column is left out, and with them another end of train."""
    values = np.random.default_rng(1).normal(size=(ROWS, 2)).cumsum(0).round(3)
    rows = [(*row, "" if place < ROWS // 2 else 5) for place, row in enumerate(values)]
    task = task_of(write(tmp_path / "own.csv", rows, "when,a,b,c"))
    plain = task_of(write(tmp_path / "plain.csv", values))
    assert (task.scaling.columns, task.scaling.constant) == (("a", "b"), 1)
    for name in ("mean", "scale", "steps"):
        assert getattr(task.scaling, name) == getattr(plain.scaling, name)


def test_a_model_that_knows_a_line_makes_no_error_anywhere(tmp_path):
    lines = np.stack([3 * np.arange(ROWS) + 7, np.arange(ROWS) % 3, -2 * np.arange(ROWS)], 1)
    task = task_of(write(tmp_path / "own.csv", lines, "when,a,b,c"), "data.targets=[c,a]")
    assert task.scaling.columns == ("c", "a", "b")
    slopes = [-2 / task.scaling.scale[0], 3 / task.scaling.scale[1]]
    model, read = Sloped(slopes, 4), list[torch.Tensor]()
    for item in task.plan(torch.Generator().manual_seed(1)):
        found = task.loss(model, item, None)
        assert found.loss < 1e-10
        assert found.count == len(item) * (12 - 4) * 4 * 2
    for split, rows in {"train": (0, 84), "valid": (84, 102), "test": (102, 120)}.items():
        found = task.evaluate(model, split, reading=read.append)
        assert found.metrics["rmse"] < 1e-3
        last = read.pop()[-1]
        assert last[0] + 1 == max(rows[0], 12)
        assert last[-1] + 4 == rows[1] - 1
        assert len(found.losses) == len(last)


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_the_loss_that_is_asked_for_trains_and_chooses(walk, loss):
    task = task_of(walk[0], f"loss={loss}", "data.targets=[a]")
    model = Sloped([0.0], 4)  # says that nothing changes
    a = torch.tensor(walk[1][:, 0]).float().sub(task.scaling.mean[0]).div(task.scaling.scale[0])
    distance = torch.square if loss == "mse" else torch.abs

    def errors(made_at: range) -> torch.Tensor:
        return distance(torch.stack([a[place + 1 : place + 5] - a[place] for place in made_at]))

    item = [30, 50]
    found = task.loss(model, item, None)
    expected = torch.stack([errors(range(place - 7, place + 1)) for place in item]).mean()
    torch.testing.assert_close(found.loss, expected)
    assert found.objective is found.loss
    assert task.evaluate(model, "valid").metrics["loss"] == pytest.approx(errors(range(83, 98)).mean().item(), rel=1e-5)


def test_an_epoch_has_each_window_once_and_is_drawn_again_alike(walk):
    task = task_of(walk[0])
    first, second = (task.plan(torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert sorted(row for batch in first for row in batch) == list(range(11, 84 - 4))
    assert first == task.plan(torch.Generator().manual_seed(1)) != second
    few = task_of(walk[0], "stride=10").plan(torch.Generator().manual_seed(1))
    assert sum(map(len, few)) in (6, 7)


def test_metrics_and_naive_forecasts_are_those_of_loops(walk):
    task, values = task_of(walk[0]), walk[1]
    still, facts = Sloped([0.0, 0.0], 4), task.facts
    found = task.evaluate(still, "test").metrics
    steps = abs(np.diff(values[:84], axis=0)).mean(0)
    for name, lag in {"naive": 1, "seasonal_naive": 5}.items():
        errors = np.array(
            [[values[t + 1 - lag + h % lag] - values[t + 1 + h] for h in range(4)] for t in range(101, ROWS - 4)]
        )
        expected = {"rmse": (errors**2).mean() ** 0.5, "rmse_last": (errors[:, -1] ** 2).mean() ** 0.5}
        expected |= {"mae": abs(errors).mean(), "mase": (abs(errors).mean((0, 1)) / steps).mean()}
        assert {key: facts[f"test_{key}_{name}"] for key in expected} == pytest.approx(expected)
        assert lag > 1 or found | expected == pytest.approx(found, rel=1e-4)


def test_the_rows_after_train_change_nothing_of_the_scaling(walk, tmp_path):
    later = walk[1].copy()
    later[84:] += 1000
    changed = task_of(write(tmp_path / "walk2.csv", later))
    own = task_of(walk[0]).scaling
    assert changed.scaling.digest != own.digest  # which is of all rows
    assert replace(changed.scaling, source="walk.csv", digest=own.digest) == own


def test_a_forecast_of_new_data_needs_what_the_run_saved_alone(walk, tmp_path):
    trained = task_of(walk[0])
    task = task_of(files=trained.files())
    model = Sloped([1 / scale for scale in task.scaling.scale], 4)
    new = tmp_path / "new.csv"
    write(new, [[place, 50.0] for place in range(20)], "day,b,a", "2025-02-20")
    _, rows = task.forecast(model, new)
    assert rows[0] == ["day", "a", "b"]
    assert [row[0] for row in rows[1:]] == ["2025-03-12", "2025-03-13", "2025-03-14", "2025-03-15"]
    np.testing.assert_allclose([[float(cell) for cell in row[1:]] for row in rows[1:]], [[51 + h, 20 + h] for h in range(4)])
    write(new, [[1, 2]] * 11)
    with pytest.raises(UserError, match="has 11 rows, and the model reads 12"):
        task.forecast(model, new)
    write(new, [[1, 2]] * 20, "when,a,c")
    with pytest.raises(UserError, match="has no column 'b': it has when, a, c"):
        task.forecast(model, new)
    with pytest.raises(UserError, match=r"trained on walk\.csv, which is not part of it: set data\.file"):
        task.evaluate(model, "test")
    assert task_of(walk[0], files=trained.files()).digest("test") == trained.digest("test")


def test_a_digest_names_what_an_evaluation_depends_on(walk, tmp_path):
    task = task_of(walk[0])
    found = [task.digest("valid"), task.digest("test"), task.digest("test", 3), task_of(walk[0], "horizon=3").digest("test")]
    other = walk[1].copy()
    other[-1, 0] += 1
    found.append(task_of(write(tmp_path / "walk.csv", other)).digest("test"))
    assert len(set(found)) == 5
    assert task_of(f"data.file={tmp_path / 'walk.csv'}").digest("valid") == found[0]
    assert task.size("test", 3) == "3 forecasts (24 values)"


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (1, [], "has 1 rows, 1 for train, 0 for valid, 0 for test"),
        (20, [], "train needs window + horizon = 16 and the others horizon = 4"),
        (60, ["burn_in=12"], "burn_in=12 must be less than window=12"),
        (60, ["data.valid=0.5", "data.test=0.6"], "0 for train"),
        (60, ["data.targets=[c]"], "has no column of numbers 'c'"),
        (60, ["model.dropout=0.1"], "set num_layers=2, or dropout=0"),
    ],
)
def test_mistakes_are_one_line(tmp_path, rows, options, said):
    values = np.random.default_rng(1).normal(size=(rows, 2))
    with pytest.raises(UserError) as error:
        task_of(write(tmp_path / "own.csv", values), *options).build_model()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_gates_are_shown_over_the_times_of_a_window(walk):
    task = task_of(walk[0])
    model = task.build_model().eval()
    assert task.read(model, None).labels[-1] == "2024-04-11"  # the last row before the first of test, 2024-04-12
    assert task.read(model, "2024-01-12").labels == [f"2024-01-{day:02d}" for day in range(1, 13)]
    with pytest.raises(UserError, match="no window ends at text='2024-01-11': name a time from 2024-01-12 to 2024-04-29"):
        task.read(model, "2024-01-11")


def test_the_band_holds_its_share_of_the_errors_on_valid(walk):
    task = task_of(walk[0], "horizon=2", "data.valid=0.3")
    model = task.build_model().eval()
    valid, test = (task.findings(model, split) for split in ("valid", "test"))
    assert [found.name for found in test] == ["a", "b"]
    for held, found in zip(valid, test, strict=True):
        errors = held.forecast - held.truth
        inside = ((errors >= held.band[0]) & (errors <= held.band[1])).double().mean().item()
        assert inside == pytest.approx(0.9, abs=2 / len(errors))
        assert found.band == held.band
        np.testing.assert_array_equal(found.truth, walk[1][103:, "ab".index(found.name)])
    expected = task.evaluate(model, "test").metrics["rmse_last"]
    assert torch.stack([found.by_step["model"][-1] ** 2 for found in test]).mean().sqrt().item() == pytest.approx(expected)
    (figure,) = draw_forecast(replace(test[0], name="a/b c"), "G2-LSTM").values()
    assert "holds" in figure.get_suptitle()
    for name, file in (("a/b c", "forecast-a_b_c"), ("größe", "forecast-größe")):
        assert list(draw_forecast(replace(test[0], name=name), "G2-LSTM")) == [file]


def test_some_steps_on_mackey_glass_beat_the_naive_forecast():
    task = task_of("data.rows=1500", "window=40", "horizon=1", "burn_in=20", "model.hidden_size=16")
    torch.manual_seed(1)
    model, generator = task.build_model(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for item in task.plan(generator)[:60]:
        optimizer.zero_grad()
        task.loss(model, item, None).objective.backward()
        optimizer.step()
    assert task.evaluate(model.eval(), "test").metrics["rmse"] < 0.5 * task.facts["test_rmse_naive"]
    assert isinstance(Scaling.parse(task.files()["scaling.json"]), Scaling)


def test_a_built_in_series_that_no_memory_holds_is_refused():
    with pytest.raises(UserError, match=r"data\.rows must be at most 1000000, got 100000000000"):
        task_of("data.rows=100000000000")
