"""Continuing a text and scoring one, by a run and by a compressed model, from the command line."""

import io
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from compress import compress
from generate import generate
from score import score

import evaluate
import train
from g2lstm import cli, runtime
from g2lstm.commands.generate import open_text_model
from g2lstm.compression.model_file import load_model, save_model
from g2lstm.compression.text_model import TextModel
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    """A folder with a run, its model in a file, and a run of another task."""
    path = tmp_path_factory.mktemp("generate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert train.main([*tiny, "epochs=1", "finetune=false", "run_dir=run"]) == 0
        small = ["model.embedding_size=4", "model.hidden_size=4", "eval.beam=1", "eval.limit=2"]
        assert train.main(["task=numbers", "gate=sigmoid", *small, "max_steps=1", "threads=1", "run_dir=numbers"]) == 0
        for name in ("run", "numbers"):
            assert compress([f"run={name}", f"out={name}.g2"]) == 0
    return path


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def given(monkeypatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_the_same_seed_gives_the_same_text_by_a_run_and_by_its_file(capsys) -> None:
    texts = []
    for options in (["run=run"], ["run=run.g2"], ["run=run", "seed=2"]):
        assert generate([*options, "prompt=w1  w3", "words=30"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("w1 w3 ")
    assert texts[0].endswith("\n")
    assert "<eos>" not in texts[0]


def test_greedy_words_are_those_that_the_model_finds_likeliest() -> None:
    model = open_text_model("run", {})
    words = list(model.generate("w1", words=8, top_k=1))
    for number, word in enumerate(words):
        before = ["w1", *words[:number]]
        tokens = [model.vocabulary.index[token] for token in before]
        at_best = min(model.losses([*tokens, token])[-1] for token in range(len(model.vocabulary)))
        assert model.losses([*tokens, model.vocabulary.index[word]])[-1] == pytest.approx(at_best)


def test_the_score_of_a_text_is_its_perplexity_in_an_evaluation(monkeypatch, capsys, text_dir) -> None:
    one = "eval.test_batch_size=1"
    assert evaluate.main(["run=run", "split=test", one, "eval.cache.enabled=false"]) == 0
    evaluated = float(capsys.readouterr().out.split()[-1])
    tokens = (text_dir / "test.txt").read_text()
    given(monkeypatch, tokens)
    assert score(["run=run"]) == 0
    text = capsys.readouterr().out
    count = len(tokens.split()) + len(tokens.splitlines())
    assert f"over {count} words" in text
    model = open_text_model("run", {})
    losses = model.losses([t for line in tokens.splitlines() for t in model.vocabulary.encode(line)])
    assert math.exp(losses[1:].mean()) == pytest.approx(evaluated, abs=0.006)  # which does not count the first word
    assert float(text.split()[1]) == pytest.approx(math.exp(losses.mean()), abs=0.006)


def test_lines_are_scored_by_themselves_and_unknown_words_are_counted(monkeypatch, capsys) -> None:
    given(monkeypatch, "w1 w3\nw2\nw1 w3\n")
    assert score(["run=run.g2", "lines=true"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.partition("\t")[2] for line in lines] == ["w1 w3", "w2", "w1 w3"]
    assert lines[0] == lines[2]
    assert "over 8 words" in last
    known = TextModel.load(Path("run.g2"))
    index = {"<unk>": 0, **{word: number for number, word in enumerate(known.vocabulary.tokens) if number}}
    monkeypatch.setattr(type(known.vocabulary), "index", index)
    given(monkeypatch, "w1 zebra\n")
    assert score(["run=run"]) == 0
    assert "over 3 words, ends of lines among them, 1 of them unknown and read as <unk>" in capsys.readouterr().out


@pytest.mark.skipif(runtime.problem() is not None, reason="no compiler")
def test_what_the_documents_write_in_python_runs(capsys) -> None:
    shutil.copy("run.g2", "model.g2")
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    by_hand, by_text = re.findall(r"```python\n(.*?)```", page.split("## From Python")[1].split("## From C")[0], re.DOTALL)
    exec(by_hand, {})
    words = capsys.readouterr().out.splitlines()
    assert len(words) == 20
    known = TextModel.load(Path("model.g2")).vocabulary.index
    assert set(words) <= set(known)
    exec("from pathlib import Path\n" + by_text.replace("the company said", "w1 w3").replace("top_k=40", "top_k=9"), {})
    words = capsys.readouterr().out.split()
    assert len(words) == 20
    assert set(words) <= set(known)


@pytest.fixture(scope="module")
def c_program(tmp_path_factory) -> Path:
    """examples/generate.c, linked with the runtime."""
    if runtime.problem() is not None or not (compiler := shutil.which("cc")):
        pytest.skip("no compiler")
    program = tmp_path_factory.mktemp("c") / "generate"
    header, library = ROOT / "g2lstm" / "runtime", runtime.model._library()._name
    options = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", f"-I{header}", "-o", program]
    subprocess.run([compiler, ROOT / "examples" / "generate.c", library, *options], check=True)
    return program


@pytest.mark.parametrize(
    "compression", [[], ["method=svd:3+bits:8", "rest=int8"], ["method=round:0.2+clip:0.4", "rest=int8"]]
)
def test_a_program_in_c_writes_the_same_text(c_program, capsys, compression) -> None:
    assert compress(["run=run", "out=small.g2", *compression]) == 0
    for seed in ("1", "2"):
        capsys.readouterr()
        assert generate(["run=small.g2", "prompt=w1 w3", "words=60", "temperature=1.3", "top_k=9", f"seed={seed}"]) == 0
        found = subprocess.run([c_program, "small.g2", " w1 w3", "60", "1.3", "9", seed], capture_output=True, text=True)
        assert (found.returncode, found.stdout, found.stderr) == (0, capsys.readouterr().out, "")


def test_a_word_that_is_read_as_unk_is_said_in_c(c_program, capsys) -> None:
    model = load_model(Path("run.g2"))
    files = model.notes["files"]
    files = files | {"vocabulary.json": files["vocabulary.json"].replace('"w5"', '"<unk>"')}
    save_model(Path("unk.g2"), replace(model, notes=model.notes | {"files": files}))
    assert generate(["run=unk.g2", "prompt=w1 zebra w3 ox", "words=9", "top_k=9"]) == 0
    found = subprocess.run(
        [c_program, "unk.g2", "w1 zebra w3 ox", "9", "1", "9"], capture_output=True, text=True, check=True
    )
    assert found.stdout == capsys.readouterr().out
    said = [f"not in the vocabulary, read as <unk>: '{word}'" for word in ("zebra", "ox")]
    assert found.stderr.splitlines() == said


NO_NUMBERS = (
    ["12abc"],
    ["0"],
    ["-3"],
    [""],
    ["9999999999"],
    ["5", "0"],
    ["5", "1x"],
    ["5", ""],
    ["5", "nan"],
    ["5", "1", "x"],
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.g2", "w1"], "nowhere.g2"),
        (["numbers.g2", "w1"], "name a language model"),
        (["run.g2", "w1 zebra"], "'zebra' is not in the vocabulary"),
        (["run.g2", " "], "the prompt has no words"),
        *((["run.g2", "w1", *rest], "words, top_k and temperature must be numbers above 0") for rest in NO_NUMBERS),
        *(
            (["run.g2", "w1", "5", "1", "4", seed], "seed must be a whole number")
            for seed in ("abc", "-1", "", "4294967296")
        ),
        (["run.g2"], "write generate MODEL.g2 PROMPT"),
    ],
)
def test_a_mistake_in_c_is_one_line(c_program, arguments, message) -> None:
    found = subprocess.run([c_program, *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1
    assert message in found.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_said_in_c(c_program) -> None:
    with Path("/dev/full").open("w") as full:
        found = subprocess.run([c_program, "run.g2", "w1", "5"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (found.returncode, found.stderr) == (2, "error: can't write the text: is the disk full?\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=run"], "the following arguments are required: --prompt"),
        (["run=nowhere", "prompt=w1"], "nowhere is not a run directory"),
        (["run=numbers", "prompt=w1"], "its task is numbers, which writes no text"),
        (["run=numbers.g2", "prompt=w1"], "numbers.g2: it is a translation model, and writes no text"),
        (["run=run", "prompt= "], "the prompt has no words"),
        (["run=run", "prompt=w1 zebra"], "'zebra' (the prompt) is not in the vocabulary"),
        (["run=run", "prompt=w1", "temperature=0"], "temperature must be a number above 0, got 0"),
        (["run=run", "prompt=w1", "temperature=nan"], "temperature must be a number above 0, got nan"),
        (["run=run", "prompt=w1", "top_k=0"], "must be a whole number of at least 1, got '0'"),
        (["run=run", "prompt=w1", "top_k=99"], "top_k must be from 1 to the 21 words of the vocabulary, got 99"),
        (["run=run", "prompt=w1", "words=0"], "must be a whole number of at least 1, got '0'"),
        (["run=run,run.g2", "prompt=w1"], "run=run,run.g2 names 2 models: name one"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message) -> None:
    assert cli.guarded(lambda: generate(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert message in captured.err


@pytest.mark.parametrize(
    ("text", "message"), [("", "there is no text on standard input"), ("w1\nw1 ox\n", "'ox' (line 2 of the text) is not in")]
)
def test_a_text_that_can_not_be_scored_is_one_line(monkeypatch, capsys, text, message) -> None:
    given(monkeypatch, text)
    assert cli.guarded(lambda: score(["run=run"])) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize("ends", ["a reader that has enough", "an interrupt"])
def test_what_ends_it_leaves_no_word(commands_in, folder, tmp_path, ends) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    told = ["run=run.g2", "prompt=w1", "words=5000000"]
    command = commands_in(folder).start(*told, program="generate", output=pipe, errors=tmp_path / "errors")
    with pipe.open() as reader:
        assert re.fullmatch(r"w1[ \nw\d]{18}", reader.read(20))
        if ends == "an interrupt":
            command.send(signal.SIGINT)
            status = command.wait()
    if ends != "an interrupt":
        status = command.wait()
    assert status == (130 if ends == "an interrupt" else 141)
    assert (tmp_path / "errors").read_text() == ""
