"""Translation goes through everything that a run goes through; mistakes in text and options are one line."""

import array
import fcntl
import gzip
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from g2lstm import cli
from g2lstm.data.sources import SPLITS
from g2lstm.errors import UserError
from g2lstm.inspection.measure import measure_words, open_store
from g2lstm.inspection.words import word_class
from g2lstm.runs.run import Run
from g2lstm.training.checkpoint import load_checkpoint

SIZES = {
    **{"data.vocabulary_size": 34, "model.embedding_size": 12, "model.hidden_size": 12, "batch_tokens": 120},
    **{"epochs": 2, "threads": 1, "log_every": 1, "checkpoint_minutes": 0, "eval.beam": 3},
}


def write_corpus(folder: Path, counts: tuple[int, int, int] = (120, 14, 9), longest: int = 7) -> Path:
    """Sentences of ten words of a source language, and the same backwards in a target language."""
    draw, words = random.Random(3), ["da", "de", "di", "do", "du", "ba", "be", "bi", "bo", "bu"]
    for split, count in zip(SPLITS, counts, strict=True):
        pairs = [draw.choices(words, k=draw.randint(1, longest)) for _ in range(count)]
        (folder / f"{split}.xx").write_text("".join(" ".join(pair) + "\n" for pair in pairs))
        (folder / f"{split}.yy").write_text("".join(" ".join(f"{w}s" for w in reversed(pair)) + "\n" for pair in pairs))
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def options(corpus) -> list[str]:
    sizes = [f"{name}={value}" for name, value in SIZES.items()]
    return ["task=parallel", f"data.dir={corpus}", "data.languages=[xx,yy]", *sizes]


@pytest.fixture(scope="module")
def runs(commands_in, options, tmp_path_factory) -> Path:
    """A folder with a stacked and a conditional run."""
    folder = tmp_path_factory.mktemp("runs")
    commands = commands_in(folder)
    commands.run(*options, "gate=gumbel", "epochs=3", "keep_epochs=2", "run_dir=stacked")
    commands.run(*options, "gate=sharpened", "model.decoder=conditional", "model.attention=additive", "run_dir=conditional")
    return folder


@pytest.fixture
def here(runs, monkeypatch, capsys):
    """Runs a command in this process, in the folder of the runs: its output, or of one that fails the line it says.

    `command.said` is what the last one wrote to the standard error, `command.written` what it wrote to the standard output.
    """
    monkeypatch.chdir(runs)

    def command(name: str, *arguments: str, status: int = 0, given: bytes | io.BytesIO = b"") -> str:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given) if isinstance(given, bytes) else given))
        main = importlib.import_module(name)
        function = getattr(main, "main", None) or getattr(main, name)
        found = cli.guarded(lambda: function(list(arguments)))
        output = capsys.readouterr()
        assert found == status, output.err
        command.written, command.said = output
        return output.err if status == 2 else output.out

    return command


def test_a_summary_has_scores_counts_and_signatures(runs):
    for name in ("stacked", "conditional"):
        found = json.loads((runs / name / "summary.json").read_text())
        assert found["train_pairs"] == 120
        assert "tok:none" in found["bleu_signature"]
        for split in ("valid", "test"):
            assert all(0 <= found[f"{split}_{key}"] <= 100 for key in ("bleu", "bleu_detokenised", "chrf"))
        assert found["subwords_per_second"] > 0
        assert 0 < found["evaluation_seconds"] <= found["seconds"]
        assert 100 < found["peak_memory_mib"] < 10_000
        assert 0 <= found["padding_share"] < 0.5
        assert found["held_out_not_translated"] == 0
    losses = load_file(runs / "stacked" / "losses.safetensors")
    assert losses["test_statistics"].shape == (9, 10)
    assert losses["test"].shape == (9,)
    assert losses["test"].dtype == torch.float32


def test_bleu_is_compared_and_named(here, runs):
    table = here("tables", "runs=stacked,conditional", "losses=true").splitlines()
    found = [json.loads((runs / name / "summary.json").read_text()) for name in ("stacked", "conditional")]
    rows = [line.strip("| ").split(" | ") for line in table if "| test |" in line]
    assert [row[:4] for row in rows] == [
        [name, "test", "9", f"{one['test_bleu']:.2f}"] for name, one in zip(("stacked", "conditional"), found, strict=True)
    ]
    assert rows[1][4] == f"{found[1]['test_bleu'] - found[0]['test_bleu']:+.2f}"
    assert "paired bootstrap, 1,000 draws" in table[-1]
    assert "BLEU; n runs" in here("tables", "runs=stacked")


@pytest.mark.parametrize(("decoder", "precision"), [("stacked", "bfloat16"), ("conditional", "float32")])
def test_a_run_killed_in_an_epoch_ends_as_one_never_killed(commands, options, decoder, precision):
    more = ["gate=gumbel", f"model.decoder={decoder}", f"precision={precision}", "epochs=3", "eval.beam=1"]
    commands.finished_and_killed([*options, *more], lines=12)


def test_a_model_learns_to_turn_sentences_round(commands, tmp_path):
    """All of it at once: where a mistake in training, search or scores leaves nothing to learn, this alone sees it."""
    folder = write_corpus(tmp_path, counts=(1500, 40, 60), longest=5)
    text = ["task=parallel", f"data.dir={folder}", "data.languages=[xx,yy]", "data.vocabulary_size=34"]
    sizes = ["model.embedding_size=32", "model.hidden_size=48", "model.decoder_layers=1", "model.dropout=0"]
    told = ["batch_tokens=500", "optimizer.lr=1e-2", "epochs=10", "eval.beam=3", "threads=1", "gate=gumbel"]
    commands.run(*text, *sizes, *told, "run_dir=run")
    found = json.loads((commands.folder / "run" / "summary.json").read_text())
    assert found["test_bleu"] > 95
    assert found["test_perplexity"] < 1.3


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["sigmoid", "gumbel"])
def test_number_words_are_learned(commands, gate):
    command = commands.start("task=numbers", f"gate={gate}", "threads=2", "run_dir=run")
    assert command.wait(patience=600) == 0, command.text()
    assert json.loads((commands.folder / "run" / "summary.json").read_text())["test_exact_match"] >= 99


def test_changed_text_is_noticed_when_a_run_goes_on(commands, options, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    write_corpus(text)
    commands.run(*options, f"data.dir={text}", "max_steps=2", "run_dir=run")
    run = commands.folder / "run"
    about = (run / "environment.json").read_bytes()

    def refused(split: str, *more: str) -> None:
        for language in ("xx", "yy"):
            lines = (text / f"{split}.{language}").read_text().splitlines(keepends=True)
            (text / f"{split}.{language}").write_text("".join(lines[1:]))
        command = commands.start("resume=run", *more)
        assert command.wait() == 2
        assert f"the {split} text has changed since the run began (parallel under {text}" in command.text()
        assert "warning" not in command.text()
        assert (run / "environment.json").read_bytes() == about
        write_corpus(text)

    refused("train")
    commands.run("resume=run")
    refused("valid", "record=true")  # of which the recorded weights are evaluated
    assert not list(commands.folder.glob("results/**/summary.json"))
    (run / "summary.json").unlink()  # as of a run that was killed while it was evaluated at its end
    refused("test")
    commands.run("resume=run")
    assert (run / "summary.json").is_file()


@pytest.mark.parametrize("run", ["stacked", "conditional"])
def test_it_is_evaluated_swept_and_stored(here, run, corpus):
    summary = json.loads(Path(run, "summary.json").read_text())
    assert f"test bleu: {summary['test_bleu']:.2f}" in here("evaluate", f"run={run}", "split=test")
    sweep = ["settings=svd:4,round:0.5+clip:1", "limit=6", f"out=sweep-{run}"]
    table = here("compression_sweep", f"runs={run}", *sweep)
    assert "svd:4" in table or "SVD 4" in table
    said = here("compress", f"run={run}", "method=svd", "rank=6", f"out={run}.g2")
    assert f"python evaluate.py run={run}.g2 data.dir={corpus}\n" in said
    assert f"python experiments/translate.py run={run}.g2 <" in said
    whole = here("translate", f"run={run}.g2", given=b"da de\nbo bi\n")
    assert len(whole.splitlines()) == 2
    assert "test bleu" in here("evaluate", f"run={run}.g2", f"data.dir={corpus}", "split=test")


def test_a_stored_model_that_lost_nothing_translates_as_the_run(here):
    here("compress", "run=stacked", "method=original", "out=whole.g2")
    given = b"da de bo\nbu\nbi bi ba\n"
    assert here("translate", "run=whole.g2", given=given) == here("translate", "run=stacked", given=given)


def test_gates_are_shown_at_the_words_that_are_said(here, corpus, undrawn):
    here("gate_histograms", "runs=stacked,conditional", "split=valid", "out=gates")
    rows = json.loads(Path("gates", "gates.json").read_text())
    assert any("decoder" in row.get("layer", "") for row in rows)
    here("gate_heatmap", "runs=conditional", "text=da de bo", "min_count=2", "out=words")
    (words,) = (row for row in json.loads(Path("words", "gates.json").read_text()) if row["kind"] == "words")
    found = {row["word"]: row for row in words["lowest_and_highest"]}
    assert (found["<s>"]["kind"], found["<s>"]["count"]) == ("other", 14)  # once a sentence
    with pytest.raises(UserError, match=r"layer encoder\.0 does not read the words that are said"):
        measure_words(open_store(Path("other")), Run.open(Path("stacked")), "G2-LSTM", "encoder.0", split="valid")
    line = here("gate_heatmap", "runs=stacked", "text=da &apos;s ||| das", "words=none", "out=map", status=2)
    assert "text has '&apos;', an escape of the Moses tokeniser: write raw text" in line
    assert not Path("map").exists()
    other = Run.open(Path("stacked")).task()
    task = replace(other, form=replace(other.form, languages=("xx", "en_US")))
    assert word_class(other.word_of("\u2581The")) == "other"  # in a language whose words have no classes here
    for label, kind in {
        **{"\u2581The": "function", "\u2581&apos;s": "function", "\u2581bus": "content", "\u2581,": "punctuation"},
        **{"</s>": "sentence end", "the": "other", "\u2581": "other", "<unk>": "other"},
    }.items():
        assert word_class(task.word_of(label)) == kind, label
    assert here("gate_heatmap", "runs=stacked", "text=d\u00e9 da", "words=none", "out=map") == ""
    assert "does not know: 'd\u00e9'" in here.said
    assert json.loads(Path("map", "heatmap.json").read_text())["models"][0]["source"][1] == "\u00e9*"
    here("gate_heatmap", "runs=stacked", "text=da ||| d\u00e9", "words=none", "out=map")
    assert "does not know: 'd\u00e9'" in here.said
    assert json.loads(Path("map", "heatmap.json").read_text())["models"][0]["words"][-1] == "\u00e9*"
    assert "text has 3 sides" in here("gate_heatmap", "runs=stacked", "text=da|||de|||bo", "words=none", "out=map", status=2)
    here("gate_heatmap", "runs=stacked", "text=da de bo", "words=none", "out=map")
    assert "does not know" not in here.said
    shown = json.loads(Path("map", "heatmap.json").read_text())["models"][0]
    assert shown["words"][0] == "<s>"
    assert shown["layer"].startswith("decoder")
    assert len(shown["mean"]["f"]) == len(shown["words"])
    assert shown["source"] == ["\u2581da", "\u2581de", "\u2581bo", "</s>"]
    here("gate_heatmap", "runs=stacked", "text=da de bo", "words=none", "layer=upper_decoder.0", "out=upper")
    upper = json.loads(Path("upper", "heatmap.json").read_text())["models"][0]
    assert (upper["layer"], upper["words"]) == ("upper_decoder.0", shown["words"])
    assert upper["mean"] != shown["mean"]
    assert [sum(weights) for weights in shown["attention"]] == pytest.approx([1.0] * len(shown["words"]), abs=1e-4)
    for given in ["text=da de ||| des das"], []:
        here("gate_heatmap", "runs=stacked,conditional", *given, "words=none", "out=map")
        both = json.loads(Path("map", "heatmap.json").read_text())["models"]
        assert both[0]["words"] == both[1]["words"]
        assert both[0]["layer"].startswith("decoder") and both[1]["layer"].startswith("decoder")  # noqa: PT018
    here("report", "runs=stacked,conditional", f"data.dir={corpus}", "out=page.html")
    page = Path("page.html").read_text()
    assert page.count("looks at") >= 2


def test_lines_in_are_lines_out(here):
    given = "da de\n\n   \nbo\u2028bi\u0085bo\r\n\U0001f600 da\nda".encode()
    found = here("translate", "run=stacked", given=given)
    assert len(found.split("\n")) == 7
    assert found.split("\n")[1:3] == ["", ""]
    best = here("translate", "run=stacked", "n_best=3", "scores=true", "beam=4", given=given).splitlines()
    assert len(best) == 18
    scores = [float(line.split("\t")[0]) for line in best[:3]]
    assert scores == sorted(scores, reverse=True)
    batched = here("translate", "run=stacked", "batch=1", given=given)
    assert batched == found
    assert len(here("translate", "run=stacked", "run=stacked", given=given).splitlines()) == 6
    assert here("translate", "run=stacked", "run=stacked", given=given) == found  # an ensemble of one model twice


def test_what_was_read_before_a_mistake_is_translated(here, capsys):
    found = here("translate", "run=stacked", status=2, given=b"da de\nb\xff\n")
    assert "is not UTF-8: byte 0xff at byte 2 of line 2" in found
    assert here.written == here("translate", "run=stacked", given=b"da de\n")


def test_what_was_read_before_an_interruption_is_translated(here):
    class Interrupted(io.BytesIO):
        def __next__(self) -> bytes:
            if line := self.readline():
                return line
            raise KeyboardInterrupt

    whole = here("translate", "run=stacked", given=b"da de\nbo\ndu")
    assert whole.count("\n") == 3
    assert here("translate", "run=stacked", "batch=2", status=130, given=Interrupted(b"da de\nbo\ndu")) == whole


def test_what_came_through_a_pipe_is_translated_at_an_interrupt(commands_in, runs, tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe")
    told = ["run=stacked", f"input={pipe}", f"output={tmp_path / 'out'}"]
    command = commands_in(runs).start(*told, program="translate", output=tmp_path / "said")
    with pipe.open("wb", buffering=0) as writer:  # which the command goes on waiting for
        writer.write(b"da de\nbo\n")
        while array.array("i", fcntl.ioctl(writer, termios.FIONREAD, b"\0" * 4))[0]:
            time.sleep(0.01)
        time.sleep(0.3)
        command.send(signal.SIGINT)
        assert command.wait() == 130
    assert (tmp_path / "out").read_text().count("\n") == 2
    assert command.text() == ""


def test_lines_are_translated_as_they_come(here, capsys):
    seen = []

    class Slow(io.BytesIO):
        def __next__(self) -> bytes:
            seen.append(capsys.readouterr().out)
            return super().__next__()

    here("translate", "run=stacked", "batch=1", given=Slow(b"da de\nbo\ndu\n"))
    assert [text.count("\n") for text in seen] == [0, 1, 1, 1]


def test_a_line_of_ten_thousand_words_is_left_empty_and_said(here):
    found = here("translate", "run=stacked", "beam=1", status=1, given=b"da\n" + b"da " * 10_000 + b"\nde\n")
    assert len(found.splitlines()) == 3
    assert found.splitlines()[1] == ""
    assert "line 2 has 10,000 sub-words, more than 1,000, and an empty translation: split it" in here.said


def test_characters_never_seen_are_said(here):
    here("translate", "run=stacked", given="da \U0001f600 d\u00e9\nde\n\u6f22\n".encode())
    assert "line 1 has characters that the training text has not, read as <unk>: '\U0001f600', 'd\u00e9'" in here.said
    assert "line 2" not in here.said
    assert "line 3 has characters" in here.said
    here("translate", "run=stacked", "batch=5", given="\u6f22\n".encode() * 12)
    assert here.said.count("has characters") == 10
    assert "12 lines have such characters, the first 10 of which were told" in here.said


def test_the_last_epochs_are_averaged(here):
    two, three = (load_checkpoint(Path("stacked", f"epoch-00{number}.safetensors"))["model"] for number in (2, 3))
    assert not Path("stacked", "epoch-001.safetensors").exists()
    run = Run.open(Path("stacked"))
    mean = run.model(run.task(), average=2).state_dict()
    assert all(torch.allclose(mean[name], (two[name] + three[name]) / 2) for name in two)
    assert "test bleu" in here("evaluate", "run=stacked", "average=2", "split=test")
    assert len(here("translate", "run=stacked", "average=1", given=b"da\n").splitlines()) == 1
    assert "train with keep_epochs=9" in here("evaluate", "run=stacked", "average=9", status=2)


def test_attention_is_drawn(here):
    here("translate", "run=conditional", "attention=seen", given=b"da de bo\n" + b"da " * 90 + b"\ndu\n")
    assert [Path("seen", f"attention-{line}.png").is_file() for line in (1, 2, 3)] == [True, False, True]
    assert "line 2 is too long to draw its attention" in here.said


def test_attention_is_that_of_the_translation_that_is_written(here):
    run = Run.open(Path("conditional"))
    task = run.task()
    models = [run.model(task), run.model(task)]
    ((_, best), *_) = task.translate(models, ["da de bo"], task.config.eval, attention=True)[0]
    looked, columns, rows = task.attention(models, "da de bo", best.tokens)
    torch.testing.assert_close(looked, best.attention, rtol=0, atol=1e-5)
    assert looked.shape == (len(rows), len(columns)) == (len(best.tokens) + 1, 4)
    looked, _, rows = task.attention(models, "da de bo", best.tokens[:1])  # whatever the search would find
    assert (len(looked), len(rows)) == (2, 2)


def test_a_run_from_a_language_to_itself_reads_its_own_text_as_it_did(here, commands, options, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    write_corpus(text)
    for path in (*text.glob("*.xx"), *text.glob("*.yy")):
        end = " ." if path.suffix == ".xx" else "."  # tokens on one side alone
        path.write_text(path.read_text().replace("\n", f"{end}\n"))
    files = ", ".join(f"{split}: [{text}/{split}.xx, {text}/{split}.yy]" for split in SPLITS)
    named = [f"data.files={{{files}}}", "data.dir=null", "data.languages=[en,en]"]
    refused = commands.start(*options, *named, "run_dir=refused")
    assert refused.wait() == 2
    assert "the target of valid has none" in refused.text()
    named += ["data.tokenised=true", "data.vocabulary_size=36"]
    commands.run(*options, *named, "max_steps=2", f"run_dir={tmp_path}/run")
    own = here("evaluate", f"run={tmp_path}/run", "split=test")
    assert here("evaluate", f"run={tmp_path}/run", "split=test", "data.tokenised=null") == own
    assert here("evaluate", f"run={tmp_path}/run", "split=test", "data.tokenised=false") != own
    copied = shutil.copytree(text, tmp_path / "copied")
    elsewhere = f"data.files={{{files.replace(str(text), str(copied))}}}"
    assert here("evaluate", f"run={tmp_path}/run", "split=test", elsewhere) == own
    commands.run(f"resume={tmp_path}/run", "max_steps=3")


def test_packed_lines_are_read(here, tmp_path):
    (tmp_path / "lines.gz").write_bytes(gzip.compress(b"da de bo\nbu\n"))
    packed = here("translate", "run=stacked", f"input={tmp_path}/lines.gz")
    assert packed == here("translate", "run=stacked", given=b"da de bo\nbu\n")


def test_a_run_is_evaluated_on_all_of_its_own_text_or_of_the_text_that_is_named(here, commands, options, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    write_corpus(text)
    for split in SPLITS:
        (text / f"{split}.xx").rename(text / f"{split}.no")
    named = [f"data.dir={text}", "data.languages=[no,yy]"]
    commands.run(*options, *named, "max_steps=2", "eval.limit=3", f"run_dir={tmp_path}/run")
    given = [f"run={tmp_path}/run", "split=test"]
    part = here("evaluate", *given)
    whole = here("evaluate", *given, "eval.limit=null")
    assert part != whole == here("evaluate", *given, "eval.limit=9") == here("evaluate", *given, "eval.limit=99")
    for split in ("train", "test"):
        lines = (text / f"{split}.yy").read_text().splitlines(keepends=True)
        (text / f"{split}.yy").write_text("".join(reversed(lines)))
        if split == "train":
            assert here("evaluate", *given) == part  # which does not read it
    assert "the test text has changed since the run began" in here("evaluate", *given, status=2)
    assert here("evaluate", *given, *named) != part
    assert "is the other way round" in here("evaluate", *given, "data.languages=[yy,no]", status=2)
    assert "data.languages has too few values, got ['yy']" in here("evaluate", *given, "data.languages=[yy]", status=2)


def test_mistakes_are_one_line(here, commands, options, tiny, tmp_path):
    commands.run(*tiny, "gate=sigmoid", "max_steps=2", f"run_dir={tmp_path}/words")
    commands.run(*options, "data.vocabulary_size=30", "max_steps=1", f"run_dir={tmp_path}/other")
    shutil.copytree("stacked", tmp_path / "lower")
    form = json.loads((tmp_path / "lower" / "text.json").read_text())
    (tmp_path / "lower" / "text.json").write_text(json.dumps(form | {"lowercase": True}))
    for arguments, said in {
        (f"run={tmp_path}/words",): "translates nothing",
        ("run=stacked", f"run={tmp_path}/other"): "an ensemble shares them",
        (
            "run=stacked",
            f"run={tmp_path}/lower",
        ): "it reads raw text in another way than stacked",
        ("run=stacked", "beam=0"): "error: beam must be a whole number from 1 to 1000",
        ("run=stacked", "beam=1001"): "must be a whole number from 1 to 1000",
        ("run=stacked", "beem=5"): "there is no option beem: did you mean beam=...?",
        ("run=stacked", "sample=5"): "there is no option sample: python experiments/translate.py --help lists the options",
        ("run=stacked", "output=."): "error: output: . is a folder: name a file in it",
        ("run=stacked", "length_penalty=-1"): "from 0 to 10",
        ("run=stacked", "input=same.txt", "output=same.txt"): "would be lost",
        ("run=nothing",): "nothing",
        ("run=stacked", "input=nothing.txt"): "nothing.txt",
    }.items():
        line = here("translate", *arguments, status=2, given=b"da\n")
        assert said in line, line
        assert line.count("\n") == 1
    Path("kept.txt").write_text("an earlier translation")
    for given in (b"da\n", b"\n"):
        line = here("translate", "run=stacked", "n_best=9", "output=kept.txt", status=2, given=given)
        assert "n_best must be in 1 to beam, which is 3, got 9" in line
        assert line.count("\n") == 1
    assert Path("kept.txt").read_text() == "an earlier translation"
    line = here("evaluate", "run=stacked", "eval.cache.enabled=true", status=2)
    assert line.endswith("a run of task=parallel has no option eval.cache.enabled: leave it out\n"), line
    assert line.count("\n") == 1
    assert here("translate", "run=stacked", "beam=500", given=b"da\n").count("\n") == 1  # more than there are sub-words
