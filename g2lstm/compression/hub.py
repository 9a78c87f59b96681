"""Compressed models on the Hugging Face Hub, by huggingface_hub's mixin: a file, its settings, a card that says what it is.

model = HubModel.from_pretrained("USER/NAME").deployed.model()  # or a folder
HubModel.of(deployed).push_to_hub("USER/NAME")
"""

import json
from itertools import dropwhile
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin, hf_hub_download

from g2lstm.compression.deploy import Deployed
from g2lstm.compression.model_file import load_model, save_model
from g2lstm.errors import UserError
from g2lstm.files import read_json, write_atomically
from g2lstm.version import __version__

FILE, CONFIG = "model.g2", "config.json"
PIPELINES = {"language_model": "text-generation", "translation": "translation"}
CARD = """# {name}

A {kind} of LSTM layers that was trained with the gate `{gate}`, in the code of *Towards Binary-Valued Gates for Robust LSTM
Training* (Li et al., ICML 2018, [arXiv 1806.02988](https://arxiv.org/abs/1806.02988)), and stored small.

| what | |
|---|---|
| task | {task} |
| corpus | {corpus} |
| gate in training | {gate} |
| seed | {seed} |
| compression | {method} |
| of | {target} |
| other matrices | {rest} |
| size | {size} |
| licence | {license} |

{scores}

```python
from g2lstm.compression.hub import HubModel

model = HubModel.from_pretrained("{name}").deployed.model()  # a torch module in eval mode
```
"""
WRITES = """
```python
from g2lstm.compression.text_model import TextModel

for word in TextModel.of(HubModel.from_pretrained("{name}").deployed).generate("the company said"):
    print(word, end=" ", flush=True)
```
"""


class HubModel(ModelHubMixin):
    """A compressed model, `deployed`, with the mixin's `save_pretrained` and `push_to_hub`, and `from_pretrained`."""

    deployed: Deployed
    size: int | None = None  # bytes of its file

    @classmethod
    def of(cls, deployed: Deployed) -> "HubModel":
        model = cls()  # as an argument the mixin would write a dataclass to its JSON, tensors included
        model.deployed = deployed
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        self.size = save_model(save_directory / FILE, self.deployed)
        settings = {name: self.deployed.notes.get(name) for name in ("method", "target", "rest")}
        content = {"model_type": f"g2lstm-{self.deployed.kind}", "g2lstm": __version__, **settings}
        write_atomically(save_directory / CONFIG, json.dumps(content, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **where: Any) -> "HubModel":
        """The model of a folder or a repository; `where` is the mixin's `revision`, `cache_dir`, `token` and so on.

        Raises:
            UserError: there is no such folder or repository, or no model in it.
        """
        name = str(pretrained_model_name_or_path)
        if Path(name).is_dir():
            return cls.of(load_model(Path(name) / FILE))
        try:
            path = hf_hub_download(name, FILE, **where)
        except (OSError, ValueError) as error:  # as all of the package's are
            raise UserError(f"{name} is no folder, and the Hub does not give it ({said(error)})") from None
        return cls.of(load_model(Path(path)))

    def generate_model_card(self, *, name: str = "USER/NAME", license: str = "mit") -> ModelCard:
        """What the model is, how good and how large, and how it is loaded.

        Args:
            name: of the repository, or of the folder.
            license: of the weights, as the Hub calls it.
        """
        notes, kind = self.deployed.notes, self.deployed.kind
        config, found = notes.get("config", {}), notes.get("evaluated", {})
        task = str(config.get("task", {}).get("name", kind))
        pipeline = PIPELINES.get(kind, "other")
        results = [
            EvalResult(pipeline, task, task, metric, value, dataset_split=split)
            for split, _, metric, value in ((*key.partition("_"), value) for key, value in found.items())
        ]
        data = ModelCardData(
            license=license, library_name="g2lstm", pipeline_tag=PIPELINES.get(kind), tags=["lstm", "g2-lstm"],
            model_name=name, eval_results=results or None,
        )  # fmt: skip
        full = f"{self.deployed.float32_bytes / 1e6:.2f} MB in float32"
        text = (CARD + (WRITES if kind == "language_model" else "")).format(
            name=name, kind=kind.replace("_", " "), task=task, corpus=config.get("data", {}).get("name", task),
            gate=config.get("gate", {}).get("name", "unknown"), seed=config.get("seed", "unknown"), license=license,
            method=notes.get("method"), target=notes.get("target"), rest=notes.get("rest"),
            size=full if self.size is None else f"{self.size / 1e6:.2f} MB, {full}", scores=_scores(notes),
        )  # fmt: skip
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def check_own(folder: Path) -> None:
    """Raises a UserError where a folder has another library's model, whose files would be replaced."""
    path = folder / CONFIG
    if path.exists() and "g2lstm" not in read_json(path, dict, "name another folder"):
        raise UserError(f"{path} is of another library's model, and would be replaced: name another folder")


def said(error: Exception) -> str:
    """What went wrong, in a line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _scores(notes: dict[str, Any]) -> str:
    """A table of the metrics before compression and, where it was evaluated, in this form."""
    before, now = _metrics(notes.get("summary", {})), notes.get("evaluated", {})
    keys = list(before | now)
    if not keys:
        return "It was not evaluated."
    cells = [[_number(values[key]) if key in values else "-" for values in (before, now)] for key in keys]
    lines = [f"| {key.replace('_', ' ')} | {' | '.join(row)} |" for key, row in zip(keys, cells, strict=True)]
    return "\n".join(["| metric | before compression | in this form |", "|---|---:|---:|", *lines])


def _metrics(summary: dict[str, Any]) -> dict[str, float]:
    """Of the run's best weights: what a summary has after the model's size. Facts of the data come before it."""
    found = {key: summary[key] for key in dropwhile(lambda key: key != "parameters", summary)}
    return {
        key: value
        for key, value in found.items()
        if key.startswith(("valid_", "test_")) and not key.endswith("_recorded_weights") and value is not None
    }


def _number(value: float) -> str:
    """Four digits, but no fewer than two behind the point: 0.001180, 0.9870, 88.12, 1234.50."""
    return f"{value:.2f}" if abs(value) >= 100 else f"{value:#.4g}"
