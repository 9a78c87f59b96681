"""Forecasting a series: at each step of a window an LSTM says the next P values, judged by the windows' last steps.

T time (the steps of a window), B batch, N forecasts, D columns, K targets (the first of D), P steps ahead (the horizon).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from g2lstm.data.scaling import Scaling
from g2lstm.data.series import Series, mackey_glass, read_csv
from g2lstm.errors import UserError
from g2lstm.gates import Gate
from g2lstm.models.forecaster import Forecaster
from g2lstm.schema import Count, EngineName, Folder, Share, section, values_of
from g2lstm.training import workers
from g2lstm.training.findings import Finding, Forecast
from g2lstm.training.task import Evaluation, LossResult, Metric, ReadText

BUILTIN = "mackey_glass"
BESIDE = {
    "rmse_last": "RMSE of the last step",
    "mase": "MASE",
    "rmse_naive": "naive forecast",
    "rmse_seasonal_naive": "seasonal naive",
}
READ_AT_ONCE = 512  # windows of an evaluation
MOST_SHOWN = 72  # steps of a window in a figure of gates
MOST_DRAWN = 8  # targets whose forecasts are drawn
BAND = 0.9  # share of the errors on valid that lie in the band of a figure


@section
class DataConfig:
    """`data`: which file and columns, and which share of the rows, the last ones, are valid and test."""

    file: Folder | None = None
    time: str | None = None
    columns: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    decimal: Literal[".", ","] | None = None
    season: Count | None = None
    rows: Annotated[int, Field(ge=1, le=1_000_000)]  # of the built-in series, which are computed one by one
    valid: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]


@section
class ModelConfig:
    """`model`: the options of `g2lstm.models.forecaster.Forecaster`."""

    hidden_size: Count
    num_layers: Count
    dropout: Share
    residual: bool
    engine: EngineName = "auto"


@section
class SeriesConfig:
    """What a forecasting run adds to the options of any run."""

    data: DataConfig
    model: ModelConfig
    window: Count
    horizon: Count
    burn_in: Annotated[int, Field(ge=0)]
    stride: Count
    batch_size: Count
    loss: Literal["mse", "mae"]


@dataclass(frozen=True)
class SeriesTask:
    """The task on its series, which is looked up when it is first needed: to forecast new data takes `scaling` alone."""

    Config: ClassVar[type] = SeriesConfig
    FILES: ClassVar[tuple[str, ...]] = ("scaling.json",)
    metric: ClassVar[Metric] = Metric("rmse", "values", digits=5, beside=BESIDE)
    variants: ClassVar[tuple[str, ...]] = ("",)
    epoch_variant: ClassVar[str] = ""
    gate_variant: ClassVar[str] = ""
    published: ClassVar[Mapping[str, Mapping[str, float]]] = {}
    labels: ClassVar[None] = None

    scaling: Scaling
    gate: Gate
    device: torch.device
    config: SeriesConfig

    @classmethod
    def from_config(
        cls, config: SeriesConfig, *, gate: Gate, device: torch.device, files: Mapping[str, str] | None = None
    ) -> "SeriesTask":
        if config.burn_in >= config.window:
            raise UserError(f"burn_in={config.burn_in} must be less than window={config.window}: lower it")
        if files is not None:
            return cls(Scaling.parse(files["scaling.json"]), gate, device, config)
        data, columns, constant = config.data, config.data.columns, 0
        source = BUILTIN if data.file is None else Path(data.file).name
        while True:
            series = _load(data, columns)
            train = _borders(config, len(series), source)["train"][1]
            scaling = Scaling.of(source, series, train, data.targets or (), data.season)
            if not scaling.constant:
                break
            columns, constant = scaling.columns, constant + scaling.constant  # without them more rows may be complete
        series = series.with_columns(scaling.columns)
        task = cls(replace(scaling, constant=constant, digest=_digest(series)), gate, device, config)
        task.__dict__["series"] = series
        return task

    @cached_property
    def series(self) -> Series:
        """The columns that the run reads; a UserError where they can't be had."""
        data, source = self.config.data, self.scaling.source
        if data.file is None and source != BUILTIN:
            raise UserError(f"the run was trained on {source}, which is not part of it: set data.file=... to it")
        return _load(data, self.scaling.columns).with_columns(self.scaling.columns)

    @property
    def origin(self) -> str:
        where = "the built-in Mackey-Glass series" if self.scaling.source == BUILTIN else self.config.data.file
        constant = f"; {self.scaling.constant} constant columns left out" if self.scaling.constant else ""
        return f"{where}: {self.series.said()}{constant}; season {self.scaling.season:,}"

    @property
    def facts(self) -> dict[str, Any]:
        """The season, what was repaired, and how far off forecasts are that repeat the last value or the last season."""
        found: dict[str, Any] = {"season": self.scaling.season, "constant_columns": self.scaling.constant}
        found |= self.series.repairs
        for name, forecast in self._baselines.items():
            for split in ("valid", "test"):
                sums = _Sums(self.scaling)
                for errors in self._errors(forecast, self._origins(split)):
                    sums.add(errors)
                found |= {f"{split}_{key}_{name}": value for key, value in sums.metrics().items()}
        return found

    def files(self) -> dict[str, str]:
        return {"scaling.json": self.scaling.text()}

    def build_model(self) -> Forecaster:
        options = values_of(self.config.model)
        try:
            return Forecaster(
                len(self.scaling.columns), self.scaling.targets, self.config.horizon, gate=self.gate, **options
            )
        except ValueError as error:
            raise UserError(f"model: {error}") from None

    def refuse_other_data(self) -> None:
        if self.scaling.digest not in ("", _digest(self.series)):
            raise UserError(f"the rows of {self.scaling.source} have changed since the run began: put them back")

    def plan(self, generator: torch.Generator) -> list[list[int]]:
        """The last rows of the windows of each batch: every `stride`-th from a drawn one on, in a drawn order."""
        self.refuse_other_data()
        origins, config = self._origins("train"), self.config
        first = int(torch.randint(min(config.stride, len(origins)), (1,), generator=generator))
        origins = origins[first :: config.stride]
        order = torch.randperm(len(origins), generator=generator)
        return [part.tolist() for part in origins[order].split(config.batch_size)]

    def loss(self, model: nn.Module, item: list[int], carried: Any) -> LossResult:  # noqa: ARG002
        """All steps of the windows count, but for the first `burn_in`."""
        part, steps = workers.part(len(item)), self.config.window - self.config.burn_in
        origins = part.of(torch.tensor(item), 0)
        with part.drawn():
            found = model(self._windows(origins), steps)  # (steps, B, P, K)
        made_at = origins + torch.arange(1 - steps, 1)[:, None]  # (steps, B)
        truth = self._normalised[self._ahead(made_at)][..., : self.scaling.targets]
        distance = nn.functional.mse_loss if self.config.loss == "mse" else nn.functional.l1_loss
        loss = distance(found.float(), truth)
        values = truth[:, 0].numel() * len(item)
        return LossResult(loss, loss, values * part.share, None, share=part.share)

    def restore(self, carried: Any, device: torch.device) -> Any:  # noqa: ARG002
        return None

    def evaluate(
        self,
        model: nn.Module,
        split: str,
        variant: str = "",  # noqa: ARG002
        *,
        limit: int | None = None,
        reading: Callable[[Tensor], None] | None = None,
    ) -> Evaluation:
        """Of all forecasts whose P values lie in the split; their windows may begin before it."""
        sums, losses = _Sums(self.scaling), list[Tensor]()
        origins = self._origins(split, limit)
        part = workers.part(len(origins))
        own = torch.cat(list(self._errors(partial(self._read_by, model, reading=reading), part.of(origins, 0))))
        for errors in workers.side_by_side(own[:0] if part.idle else own, 0).split(READ_AT_ONCE):
            sums.add(errors)
            distances = errors.square() if self.config.loss == "mse" else errors.abs()
            losses.append(distances.mean((1, 2)))
        every = torch.cat(losses)
        return Evaluation({"loss": every.mean().item()} | sums.metrics(), every)

    def findings(self, model: nn.Module, split: str) -> list[Finding]:
        """The last step ahead of each forecast, of the first targets."""
        rows, read = self._origins(split) + self.config.horizon, partial(self._read_by, model)
        last = torch.cat([errors[:, -1] for errors in self._errors(read, self._origins(split))])  # (N, K)
        on_valid = torch.cat([errors[:, -1] for errors in self._errors(read, self._origins("valid"))])
        low, high = torch.quantile(on_valid, torch.tensor([(1 - BAND) / 2, (1 + BAND) / 2], dtype=torch.float64), 0)
        by_step = {"model": self._by_step(read, split)}
        by_step |= {name: self._by_step(forecast, split) for name, forecast in self._baselines.items()}
        found = list[Finding]()
        for place, name in enumerate(self.scaling.columns[: self.scaling.targets][:MOST_DRAWN]):
            scale, truth = self.scaling.scale[place], torch.from_numpy(self.series.values[rows, place])
            forecast, band = truth + scale * last[:, place], (scale * low[place].item(), scale * high[place].item())
            errors = {label.replace("_", " "): scale * of_all[:, place] for label, of_all in by_step.items()}
            found.append(Forecast(split, name, self.series.times[rows], truth, forecast, band, BAND, errors))
        return found

    def digest(self, split: str, limit: int | None = None) -> str:
        origins = self._origins(split, limit)
        first, last = int(origins[0]), int(origins[-1])
        rows = self.series.values[first + 1 - self.config.window : last + 1 + self.config.horizon]
        settings = json.dumps(
            [replace(self.scaling, digest="").text(), self.config.window, self.config.horizon, self.config.loss, first, last]
        )
        return hashlib.sha256(rows.tobytes() + settings.encode()).hexdigest()[:20]

    def size(self, split: str, limit: int | None = None) -> str:
        count = len(self._origins(split, limit))
        return f"{count:,} forecasts ({count * self.config.horizon * self.scaling.targets:,} values)"

    def word_of(self, label: str) -> str | None:  # noqa: ARG002
        return None

    def read(self, model: nn.Module, text: str | None) -> ReadText:
        """The model reads the window that ends at a time, as the file has it; without a text the first one of test.

        Raises:
            UserError: there is no such time, or no window before it.
        """
        labels, origin = self.series.labels(), int(self._origins("test")[0])
        if text is not None:
            if text not in labels[self.config.window - 1 :]:
                span = f"{labels[self.config.window - 1]} to {labels[-1]}"
                raise UserError(f"no window ends at text={text!r}: name a time from {span} as the series has it")
            origin = labels.index(text)
        with torch.no_grad():
            model(self._windows(torch.tensor([origin])))
        shown = min(self.config.window, MOST_SHOWN)
        return ReadText(labels[origin + 1 - shown : origin + 1], [])

    def forecast(self, model: nn.Module, path: Path) -> tuple[Series, list[list[str]]]:
        """A CSV file as it was read, and what comes after it, as rows with a header: the time, and each target.

        Raises:
            UserError: as `read_csv`; the file has fewer rows than the model reads.
        """
        series = _load(self.config.data, self.scaling.columns, path).with_columns(self.scaling.columns)
        window, horizon = self.config.window, self.config.horizon
        if len(series) < window:
            raise UserError(f"{path} has {len(series):,} rows, and the model reads {window:,}: add the rows before them")
        read = self.scaling.normalised(series.values[-window:])
        x = torch.tensor(read, dtype=torch.float32, device=self.device).unsqueeze(1)
        values = self.scaling.restored(_last(model, x)[0].numpy())  # (P, K)
        times = series.labels(series.times_after(horizon))
        rows = [[time, *(f"{value:.7g}" for value in row)] for time, row in zip(times, values, strict=True)]
        return series, [[series.time_name or "row", *self.scaling.columns[: self.scaling.targets]], *rows]

    @cached_property
    def _normalised(self) -> Tensor:
        """(rows, D)"""
        values = self.scaling.normalised(self.series.values)
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    @cached_property
    def _exact(self) -> Tensor:
        """(rows, K) normalised targets in double precision."""
        return torch.from_numpy(self.scaling.normalised(self.series.values)[:, : self.scaling.targets])

    def _origins(self, split: str, limit: int | None = None) -> Tensor:
        """The rows after which a forecast is made: its window is there, and its P values lie in the split."""
        start, end = _borders(self.config, len(self.series), self.scaling.source)[split]
        return torch.arange(max(start, self.config.window) - 1, end - self.config.horizon)[:limit]

    def _windows(self, origins: Tensor) -> Tensor:
        """(T, B, D) of the windows that end at B rows."""
        return self._normalised[origins + torch.arange(1 - self.config.window, 1)[:, None]]

    def _ahead(self, rows: Tensor) -> Tensor:
        """(..., P) rows after each of `rows`."""
        return rows[..., None] + torch.arange(1, self.config.horizon + 1)

    @property
    def _baselines(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """What forecasts are compared with: the last value, and the last season, again."""
        return {"naive": partial(self._repeated, lag=1), "seasonal_naive": partial(self._repeated, lag=self.scaling.season)}

    def _repeated(self, origins: Tensor, lag: int) -> Tensor:
        """(B, P, K): the last `lag` rows over and over, the first row where there are fewer."""
        ahead = torch.arange(self.config.horizon)
        return self._exact[(origins[:, None] - lag + 1 + ahead % lag).clamp(min=0)]

    def _read_by(self, model: nn.Module, origins: Tensor, reading: Callable[[Tensor], None] | None = None) -> Tensor:
        """(B, P, K): what the model says at the end of the windows."""
        if reading is not None:
            reading(origins + torch.arange(1 - self.config.window, 1)[:, None])
        return _last(model, self._windows(origins))

    def _errors(self, forecast: Callable[[Tensor], Tensor], origins: Tensor) -> Iterator[Tensor]:
        """(B, P, K) normalised forecasts less the truth, made after some rows."""
        for some in origins.split(READ_AT_ONCE):
            yield forecast(some) - self._exact[self._ahead(some)]

    def _by_step(self, forecast: Callable[[Tensor], Tensor], split: str) -> Tensor:
        """(P, K) root mean square errors, normalised."""
        squares = [errors.square().sum(0) for errors in self._errors(forecast, self._origins(split))]
        return (torch.stack(squares).sum(0) / len(self._origins(split))).sqrt()


def _digest(series: Series) -> str:
    return hashlib.sha256(series.values.tobytes()).hexdigest()[:20]


class _Sums:
    """Of (B, P, K) normalised errors, and the metrics that they make."""

    def __init__(self, scaling: Scaling) -> None:
        self.scaling = scaling
        self.count, self.squared, self.last = 0, 0.0, 0.0
        self.absolute = torch.zeros(scaling.targets, dtype=torch.float64)

    def add(self, errors: Tensor) -> None:
        own = errors * torch.tensor(self.scaling.scale[: self.scaling.targets], dtype=torch.float64)
        self.count += len(own)
        self.absolute += own.abs().mean(1).sum(0)
        self.squared += own.square().mean((1, 2)).sum().item()
        self.last += own[:, -1].square().mean(1).sum().item()

    def metrics(self) -> dict[str, float]:
        """In the targets' own units, over all of them; MASE (Hyndman and Koehler 2006) is the mean of theirs."""
        absolute = self.absolute / self.count
        return {
            "rmse": (self.squared / self.count) ** 0.5,
            "rmse_last": (self.last / self.count) ** 0.5,
            "mae": absolute.mean().item(),
            "mase": (absolute / torch.tensor(self.scaling.steps, dtype=torch.float64)).mean().item(),
        }


def _last(model: nn.Module, x: Tensor) -> Tensor:
    """(B, P, K) normalised, from (T, B, D) windows."""
    with torch.no_grad():
        return model(x)[-1].double().cpu()


def _load(data: DataConfig, columns: tuple[str, ...] | None, path: Path | None = None) -> Series:
    """The series of a config, or that of another file in the same form."""
    if path is None and data.file is None:
        return mackey_glass(data.rows)
    options = {"columns": columns, "time": data.time, "separator": data.separator, "decimal": data.decimal}
    return read_csv(path or Path(data.file).expanduser(), **options)  # type: ignore[arg-type]


def _borders(config: SeriesConfig, rows: int, source: str) -> dict[str, tuple[int, int]]:
    """The first row of each split and the one after its last; a UserError where one has no forecast."""
    data, least = config.data, config.window + config.horizon
    first, second = (rows - round(rows * share) for share in (data.valid + data.test, data.test))
    if first < least or min(second - first, rows - second) < config.horizon:
        way = "add rows, or lower window, horizon, data.valid or data.test"
        shares = f"{max(first, 0):,} for train, {second - first:,} for valid, {rows - second:,} for test"
        needed = f"train needs window + horizon = {least:,} and the others horizon = {config.horizon:,}"
        raise UserError(f"{source} has {rows:,} rows, {shares}, but {needed}: {way}")
    return {"train": (0, first), "valid": (first, second), "test": (second, rows)}
