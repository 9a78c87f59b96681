"""The gates word by word (the paper's Figure 4): gate_heatmap.py runs='results/ptb_cpu/*' text="the company said ..."."""

import json
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports shows no traceback

import torch
from rich.console import Console
from torch import Tensor, nn

from g2lstm import cli
from g2lstm.data.text import EOS
from g2lstm.errors import UserError
from g2lstm.figures import gate_label, gate_order, lacking, save_figure
from g2lstm.files import write_atomically
from g2lstm.inspection.clustering import cluster_order
from g2lstm.inspection.measure import BLOCK_NAMES, about_run
from g2lstm.inspection.reading import EXAMPLE, chosen_layer, corpus_statistics, first_sentences, layer_name, read_sentence
from g2lstm.inspection.words import WordRow, class_means, compare_classes, word_rows
from g2lstm.reporting.gate_tables import word_table
from g2lstm.reporting.heatmap import draw_heatmap, draw_units, draw_words
from g2lstm.runs import NamedRun, blamed, default_folder, load_run, named_runs
from g2lstm.training.progress import say
from g2lstm.training.tasks import LanguageModelTask

ENDS = 20  # words with the lowest and with the highest gates in a figure


@dataclass(frozen=True)
class Reading:
    """What a model's gates did at each word of the text.

    Attributes:
        label: the model's.
        layer: whose gates these are.
        words: as the figures show them, unknown ones with a star.
        gates: (N, H) of each gate.
    """

    label: str
    layer: str
    words: list[str]
    gates: dict[str, Tensor]

    def means(self) -> dict[str, list[float]]:
        """Over the layer's units."""
        return {gate: [round(value, 5) for value in values.mean(1).tolist()] for gate, values in self.gates.items()}


def gate_heatmap(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if not options.text.split():
        raise UserError("text has no words: set text='the company said it will ...'")
    if bool(options.run) == bool(options.runs):
        raise UserError("set run=RUN_DIR, or runs= for several, comma-separated or a pattern")
    runs = named_runs(options.run or options.runs, {"data.dir": getattr(options, "data.dir"), "device": options.device})
    runs.sort(key=lambda run: (gate_order(run.gate), run.seed))
    out = options.out or default_folder([run.path for run in runs], "gates")
    console = Console(stderr=True)
    readings: dict[str, Reading] = {}
    rows: list[dict[str, Any]] = []
    types: dict[str, tuple[list[WordRow], str]] = {}  # of each figure by its name, with its title
    for run in runs:
        with blamed(run):
            task, model = load_run(run.path, run.config)
            first = run.gate not in readings  # figures show one run of each gate
            if first:
                readings[run.gate] = _reading(run, task, model, options, console)
            if options.words != "none":
                row, found = _words(run, task, model, readings[run.gate].layer, options)
                rows.append(row)
                say(console, f"{row['label']} seed {row['seed']}: {_told(row['test'])}")
                if first:
                    where = f"{row['split']}, seen {row['min_count']} times or more"
                    title = f"Forget gate of {row['layer']}, {row['label']}, by word ({where})"
                    types[f"words-{run.gate.replace('/', '-')}-seed{run.seed}"] = found, title
    written = _draw(list(readings.values()), out)
    for name, (found, title) in types.items():
        written += save_figure(draw_words(found, title, ENDS), out, name)
    texts = [text for reading in readings.values() for text in (reading.label, *reading.words)]
    texts += [row.word for found, _ in types.values() for row in (*found[:ENDS], *found[-ENDS:])]
    if boxes := lacking(texts):
        say(console, f"the font lacks {boxes}: set font.family in a matplotlibrc to one that has them")
    models = [
        {"gate": gate, "label": reading.label, "layer": reading.layer, "words": reading.words, "mean": reading.means()}
        for gate, reading in readings.items()
    ]
    content = {"text": options.text, "models": models}
    for name, shown in (("heatmap.json", content), ("words.json", {"rows": rows})):
        if shown != {"rows": []}:
            write_atomically(out / name, json.dumps(shown, indent=1, ensure_ascii=False) + "\n")
            written.append(out / name)
    if rows:
        print(word_table(rows))
    say(console, "wrote " + ", ".join(map(str, written)))
    return 0


def _reading(run: NamedRun, task: LanguageModelTask, model: nn.Module, options: Any, console: Console) -> Reading:
    words, unknown, values = read_sentence(model, task.corpus.vocabulary, options.text)
    if unknown:
        say(console, f"{run.path} does not know, and reads as <unk>: {' '.join(unknown)}")
    layer = chosen_layer(list(dict.fromkeys(map(layer_name, values))), options.layer)
    shown = [f"{word}*" if word in unknown else word for word in words]
    return Reading(
        gate_label(run.gate), layer, shown, {key.gate: v.cpu() for key, v in values.items() if layer_name(key) == layer}
    )


def _draw(readings: list[Reading], out: Path) -> list[Path]:
    """The heat map and the units of all models."""
    shown = readings[0].words
    if any(reading.words != shown for reading in readings):
        raise UserError("the runs know different words of the text: give runs with the same vocabulary")
    named = [(r.label, BLOCK_NAMES[gate], v) for r in readings for gate, v in r.gates.items()]
    note = " (* unknown, read as <unk>)" if any(word.endswith("*") for word in shown) else ""
    layer = readings[0].layer
    means = [(model, gate, v.mean(1).tolist()) for model, gate, v in named]
    heat = draw_heatmap(shown, means, f"Gates of {layer} at each word{note}")
    in_order = [(model, gate, v.T[cluster_order(v.T)].numpy()) for model, gate, v in named]
    units = draw_units(shown, in_order, f"Units of {layer} at each word{note}")
    return save_figure(heat, out, "heatmap") + save_figure(units, out, "units")


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        prog="experiments/gate_heatmap.py",
        description="Draws trained models' gates at each word of a sentence, and which words shut the forget gate.",
    )
    parser.add_argument("--run", metavar="DIR", help="a run directory, or a folder under results/")
    parser.add_argument("--runs", metavar="DIRS", help="several: names or patterns, comma-separated")
    parser.add_argument("--text", default=EXAMPLE, help="words between white space, as the corpus writes them")
    parser.add_argument("--layer", metavar="NAME", help="the decoder's first layer, or the first, without it")
    parser.add_argument(
        "--words", choices=("train", "valid", "test", "none"), default="valid",
        help="the text over which words are compared; valid without it",
    )  # fmt: skip
    parser.add_argument("--samples", type=cli.positive, metavar="N", help="its first N sentences; all without it")
    parser.add_argument(
        "--min_count", type=cli.positive, default=20, metavar="N",
        help="words seen less are left out; 20 without it",
    )  # fmt: skip
    parser.add_argument("--threads", type=cli.positive, metavar="N", help="CPU threads")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data.dir", metavar="DIR", help="where the corpus is, if not where the run found it")
    parser.add_argument("--out", type=cli.folder, metavar="DIR", help="results/gates/EXPERIMENT for recorded runs")
    return parser


def _words(
    run: NamedRun, task: LanguageModelTask, model: nn.Module, layer: str, options: Any
) -> tuple[dict[str, Any], list[WordRow]]:
    """Which words have the lowest mean forget gate over a corpus, and the test of the paper's observation."""
    vocabulary, split = task.corpus.vocabulary, options.words
    tokens, sentences = first_sentences(getattr(task.corpus, split), vocabulary.index[EOS], options.samples)
    statistics = corpus_statistics(
        model, tokens, batch_size=task.valid_batch_size, rows=task.eval_bptt, words=len(vocabulary)
    )
    sums = next(tally.words for key, tally in statistics.tallies.items() if layer_name(key) == layer and key.gate == "f")
    assert isinstance(sums, Tensor)
    types = word_rows(sums, vocabulary.tokens, options.min_count)
    if not types:
        raise UserError(f"no word stands {options.min_count} times in {split}: set min_count lower, or words=train")
    row = about_run(run.path, run.gate, run.seed, model)
    row |= {"layer": layer, "split": split, "sentences": sentences, "words": len(tokens), "min_count": options.min_count}
    row |= {"types": len(types), "classes": class_means(types), "test": compare_classes(types)}
    ends = types if len(types) <= 100 else types[:50] + types[-50:]
    return row | {"lowest_and_highest": [_rounded(asdict(word)) for word in ends]}, types


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()}


def _told(test: dict[str, float] | None) -> str:
    if test is None:
        return "too few word types to compare function words with content words"
    return (
        f"forget gate of function words and punctuation ({test['types_low']} types) - content words ({test['types_high']}):"
        f" {test['difference']:+.3f}, 95% interval {test['low']:+.3f} to {test['high']:+.3f}, p {test['p']:.2g}"
    )


if __name__ == "__main__":
    cli.main(gate_heatmap)
