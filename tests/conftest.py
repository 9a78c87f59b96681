"""Fixtures shared by all tests."""

import gc
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by torch: threads that wait leave the core to others

import pytest

if TYPE_CHECKING:
    import torch

gc.disable()  # while tests are imported and collected, which takes half as long
ROOT = Path(__file__).resolve().parent.parent
OWN_TASK = ROOT / "tests" / "end_to_end" / "own_task"
# What takes longest begins first, so that two workers end at the same time.
LONGEST = ("end_to_end/", "inspection/test_commands.py", "engines/test_triton.py", "compression/test_sweep.py", "test_lstm")
LONGEST += ("data/test_parallel.py", "training/test_profiling.py")


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.getoption("numprocesses", None):
        return  # the process that only hands tests to others needs none of these imports

    import torch
    from hypothesis import settings

    torch.set_num_threads(1)  # the tensors here are small: more threads only wait for each other
    # A busy machine is no failure, and a test run leaves no folder behind.
    settings.register_profile("quiet", deadline=None, database=None)
    settings.load_profile("quiet")
    spare_hydra()


def spare_hydra() -> None:
    """Commands start in two thirds of the time; `whole_hydra` undoes what errors could depend on."""
    import yaml
    from hydra._internal.hydra import Hydra

    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser, of the same results
    # It composes all once before, to look for hydra.mode, which nothing here sets.
    Hydra.get_mode = wraps(Hydra.get_mode)(lambda *_, **__: None)


@pytest.fixture
def whole_hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in this process do all that they do for a user."""
    from hydra._internal.hydra import Hydra

    monkeypatch.setattr(Hydra, "get_mode", Hydra.get_mode.__wrapped__)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(ROOT / "tests").as_posix()
        return next((number for number, start in enumerate(LONGEST) if path.startswith(start)), len(LONGEST))

    items.sort(key=rank)
    gc.freeze()  # what the imports left, a quarter of a second to look through at each collection
    gc.enable()


@contextmanager
def without_drawing() -> Iterator[None]:
    """Files of figures hold none, for drawing takes most of the time."""
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda _, file, **__: file.write(b"<svg ></svg>"))
        yield


@pytest.fixture
def undrawn() -> Iterator[None]:
    with without_drawing():
        yield


@pytest.fixture
def as_from_a_terminal() -> Iterator[None]:
    """SIGHUP and SIGINT do what they do there: who starts the tests with nohup or in the background has them ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def ptb_dir() -> Path:
    """The folder of the real Penn Treebank; the test is skipped where there is none."""
    roots = [ROOT / "data"]
    if os.environ.get("G2LSTM_DATA"):
        roots.insert(0, Path(os.environ["G2LSTM_DATA"]))
    for root in roots:
        if (root / "ptb" / "ptb.train.txt").is_file():
            return root / "ptb"
    pytest.skip("no Penn Treebank: set $G2LSTM_DATA, or put ptb.train.txt, ptb.valid.txt, ptb.test.txt under data/ptb")


@pytest.fixture(scope="session")
def text_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train, valid and test text of 20 words, in which each word favours those that may follow it."""
    folder, draw = tmp_path_factory.mktemp("text"), random.Random(7)
    for split, count in (("train", 80), ("valid", 16), ("test", 12)):
        lines = []
        for _ in range(count):
            word, line = draw.randrange(20), []
            for _ in range(draw.randint(4, 12)):
                line.append(f"w{word}")
                word = (3 * word + draw.choice((1, 2, 7))) % 20
            lines.append(" ".join(line))
        (folder / f"{split}.txt").write_text("\n".join([*lines, " ".join(f"w{word}" for word in range(20))]) + "\n")
    return folder


@pytest.fixture(scope="session")
def tiny(text_dir: Path) -> list[str]:
    """Options of a language model so small that an epoch takes a fraction of a second, with all its parts in use."""
    sizes = {"model.embedding_size": 8, "model.hidden_size": 12, "model.num_layers": 2, "batch_size": 4, "bptt": 8}
    sizes |= {"epochs": 2, "finetune_epochs": 2, "eval.bptt": 16, "eval.valid_batch_size": 2, "eval.cache.window": 20}
    sizes |= {"threads": 1, "log_every": 3, "optimizer.lr": 5.0, "optimizer.nonmonotone": 1}
    return ["task=text", f"data.dir={text_dir}", *(f"{name}={value}" for name, value in sizes.items())]


@pytest.fixture(scope="session")
def small_options(text_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Options of a small model of each task by its name, on a small text if it reads one; "copying" is no task of ours."""
    from g2lstm.runs.compose import compose
    from tests.end_to_end.test_translation import write_corpus
    from tests.tasks.test_mnist import write_mnist

    sizes, pairs = ["model.embedding_size=6", "model.hidden_size=8"], write_corpus(tmp_path_factory.mktemp("pairs"))
    small = {
        "bptt": [*sizes, "batch_size=3", "bptt=5", "data.name=text", f"data.dir={text_dir}"],
        "label_smoothing": [
            *sizes, "data.name=parallel", "data.languages=[xx,yy]", f"data.dir={pairs}",
            "data.vocabulary_size=34", "data.joint=true", "batch_tokens=null", "batch_size=4", "precision=float32",
        ],
        "mnist": [
            "data.counts=null", "mnist.valid=10", f"data.dir={write_mnist(tmp_path_factory.mktemp('mnist'))}",
            "batch_size=8", "model.hidden_size=8", "precision=float32",
        ],
    }  # fmt: skip

    @cache
    def of(name: str) -> list[str]:
        if name == "copying":
            return ["task=copying", f"hydra.searchpath=[file://{OWN_TASK}/conf]"]
        has = compose([f"task={name}"])
        return [f"task={name}", *(option for key, options in small.items() if key in has for option in options)]

    return of


@cache
def composed(*overrides: str) -> dict[str, Any]:
    """The values of a command line."""
    from g2lstm.runs.compose import compose

    return compose(list(overrides))


@pytest.fixture
def small_task(
    small_options: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, "torch.nn.Module"]]:
    """Builds a task of `small_options` and its model: small_task("ptb", "gate=sigmoid", device="cpu")."""
    import torch

    from g2lstm.runs.config import Config

    monkeypatch.syspath_prepend(OWN_TASK)

    def build(name: str, *more: str, device: str = "cpu") -> tuple[Any, "torch.nn.Module"]:
        torch.manual_seed(0)
        task = Config.parse(deepcopy(composed(*small_options(name), *more))).build_task(torch.device(device))
        return task, task.build_model().to(device)

    return build
