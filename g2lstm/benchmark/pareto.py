"""What deployed language models cost and how good they are: perplexity, milliseconds a word, bytes of the file.

Perplexities and times are of the whole model as it runs in that engine, embedding and output layer included.
"""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch

from g2lstm import runtime
from g2lstm.benchmark.cases import DENSE, ONNX, ONNX_INT8
from g2lstm.benchmark.measure import CPU, in_turns
from g2lstm.compression.deploy import REST, Deployed
from g2lstm.compression.methods import ORIGINAL, Method
from g2lstm.compression.onnx_files import Session, export, package, quantize_dynamically
from g2lstm.compression.readers import NativeReader, OnnxReader, Reader, token_losses
from g2lstm.compression.stored import StoredModel, deploy_run
from g2lstm.compression.targets import Target
from g2lstm.errors import UserError
from g2lstm.runs.run import Run, blamed, labels
from g2lstm.runs.store import Row, Store, key_of
from g2lstm.tasks.language_model import LanguageModelTask, perplexity
from g2lstm.training.environment import environment

FORMS = (
    *("original/float32", "original/bf16", "original/int8"),
    *("svd:64+bits:8/int8", "svd:H/8+bits:8/int8", "svd:H/16+bits:8/int8"),
    *("bits:4/int8", "ternary/int8", "round:0.2+clip:0.4/int8", "round:0.5+clip:1/int8"),
)
NEEDED = ("run", "gate", "seed", "engine", "metric", "value", "ms", "file_mb", "weights")
WORDS = 200  # that are read one after the other while times are taken


class Contender:
    """One run in one engine."""

    def __init__(self, run: Run, label: str, engine: str, reader: Reader, size: int, key: str) -> None:
        self.run, self.engine, self.reader, self.size, self.key = run, engine, reader, size, key
        self.about: Row = {"run": run.path.as_posix(), "gate": label, "seed": run.seed, "weights": run.weights}
        self.about["engine"] = engine

    def step(self, words: np.ndarray) -> Callable[[], None]:
        """Reads one word after the other of those that are given, again and again, and gives the logits after it."""
        stream, state = cycle(words.reshape(-1, 1, 1)), None

        def step() -> None:
            nonlocal state
            _, state = self.reader(next(stream), state)

        return step


def parse_forms(text: str | None) -> list[tuple[Method, str]]:
    """Of "svd:64+bits:8/int8,original/bf16" the settings and what the rest is kept in; a UserError for a mistake."""
    found = []
    for part in text.split(",") if text else FORMS:
        method, _, rest = part.rpartition("/") if part.rpartition("/")[2] in REST else (part, "", "float32")
        try:
            found.append((Method.parse(method), rest))
        except ValueError as error:
            raise UserError(str(error)) from None
    return found


def contenders(
    run: Run,
    label: str,
    task: LanguageModelTask,
    forms: Sequence[tuple[Method, str]],
    target: Target,
    limit: int | None,
    stored: Sequence[Deployed] = (),
) -> list[Contender]:
    """A run in every form and its `stored` models in the runtime, its uncompressed one in onnxruntime, float32 and int8."""
    if (reason := runtime.problem()) is not None:
        raise UserError(f"the runtime of compressed models {reason}")
    about, found = (run.weights, task.digest("test", limit), limit), list[Contender]()

    def add(engine: str, reader: Reader, size: int, *version: str) -> None:
        found.append(Contender(run, label, engine, reader, size, key_of(*about, engine, *version)))

    sources = hashlib.sha256(b"".join(path.read_bytes() for path in runtime.model.SOURCES)).hexdigest()
    for deployed in (*(deploy_run(run, method, target, rest=rest) for method, rest in forms), *stored):
        content = deployed.file()
        digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in deployed.state().values())).hexdigest()
        add(_name(deployed.notes), NativeReader(runtime.Model(content)), len(content), digest, sources)
    with tempfile.TemporaryDirectory() as folder:
        path, whole = Path(folder) / "model.onnx", deploy_run(run, Method())
        for engine in (ONNX, ONNX_INT8):
            size = export(path, whole, tied=engine == ONNX)
            size = quantize_dynamically(path, path) if engine == ONNX_INT8 else size
            add(engine, OnnxReader(Session(path, torch.get_num_threads())), size, package("onnxruntime").__version__)
    return found


def measure(
    runs: Sequence[Run],
    store: Store,
    *,
    forms: Sequence[tuple[Method, str]],
    target: Target,
    models: Sequence[Path] = (),
    limit: int | None = None,
    seconds: float = 60.0,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """A row for each run and engine.

    Args:
        runs: of language models.
        store: has the perplexities that were measured before, which are not measured again; it gets all rows, in the place
            of those of the same runs and engines.
        forms, target: as `parse_forms` gives them, and which gates are compressed.
        models: files of compressed models of these runs, as fine-tuned ones.
        limit: perplexity of the first so many sentences of test.
        seconds: how long times are taken, of all in turns.
        tell: is told what is found.

    Raises:
        UserError: a run is of another task, or has no weights; a model comes from none of the runs.
    """
    stored = [StoredModel(path) for path in models]
    origins = [one.own_config.identity(one.deployed.notes["files"]) for one in stored]
    for model, origin in zip(stored, origins, strict=True):
        if origin not in [run.identity for run in runs]:
            raise UserError(f"{model.path} was made from none of these runs: name its run too, or leave it out")
    all_of, streams = list[Contender](), dict[Path, np.ndarray]()
    for run, label in zip(runs, labels(runs), strict=True):
        with blamed(run):
            if run.config.task_class is not LanguageModelTask:
                raise UserError(f"its task is {run.config.run.task.name}: name runs of language models")
            task = run.task()
            streams[run.path] = task.stream("test", limit).cpu().numpy()
            own = [model.deployed for model, origin in zip(stored, origins, strict=True) if origin == run.identity]
            all_of += contenders(run, label, task, forms, target, limit, own)
    rows = []
    for number, one in enumerate(all_of, 1):
        before = store.rows(one.key)[0] if one.key in store else {}
        value = before.get("value")
        if value is None:
            value = perplexity(float(token_losses(one.reader, streams[one.run.path]).mean()))
        rows.append(one.about | {"metric": "perplexity", "split": "test", "limit": limit, "value": value})
        tell(f"{number}/{len(all_of)} {one.about['run']}, {one.engine}: perplexity {value:.2f}, {one.size / 1e6:.2f} MB")
    times = in_turns([one.step(streams[one.run.path][:WORDS, 0]) for one in all_of], CPU, seconds=seconds, least=2)
    about = {name: environment(CPU, "auto")[name] for name in ("hardware", "torch", "threads", "commit")}
    for one, row, taken in zip(all_of, rows, times, strict=True):
        low, _, high = quantiles(taken, n=4)
        row |= {"ms": round(median(taken), 4), "spread": round((high - low) / median(taken), 3), "repeats": len(taken)}
        row |= {"file_mb": round(one.size / 1e6, 3), **about}
        store.add(one.key, [row])
    measured = {(row["run"], row["engine"]) for row in rows}
    store.keep([one.key for one in all_of], [row for row in store.all() if (row["run"], row["engine"]) in measured])
    return rows


def _name(notes: Mapping[str, Any]) -> str:
    """As the speed table calls it: "dense", "svd:64+bits:8, rest int8"."""
    parts = [notes["method"].replace(ORIGINAL, DENSE)]
    parts += [f"rest {notes['rest']}"] if notes["rest"] != "float32" else []
    if "tuned" in notes:
        passes = notes["tuned"]["passes"]
        parts.append(f"tuned for {passes:g} pass{'' if passes == 1 else 'es'}")
    return ", ".join(parts)
