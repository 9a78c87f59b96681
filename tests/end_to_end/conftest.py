"""Commands as processes of their own, each forked from one that has the imports behind it, which saves seconds."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from g2lstm.training.checkpoint import load_checkpoint
from tests.end_to_end.same_run import assert_same_run

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 120.0  # seconds for a command

SERVER = """
import gc, importlib, json, os, sys
gc.disable()  # until a command runs, as in a script
import torch._dynamo  # what the first optimizer imports
import joblib, pyarrow, sacrebleu, sacremoses, tokenizers  # what translation does
import train
from g2lstm import cli
from g2lstm.runs.compose import compose
from tests.conftest import spare_hydra
spare_hydra()
compose([])  # what Hydra's parser learns of its grammar, for all
for line in sys.stdin:
    request = json.loads(line)
    if "poll" in request:
        ended, status = os.waitpid(request["poll"], os.WNOHANG)
        print(os.waitstatus_to_exitcode(status) if ended else "", flush=True)
        continue
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    for number, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = [request["program"] + ".py", *request["arguments"]]
    try:
        program = importlib.import_module(request["program"])
        cli.main(getattr(program, "main", None) or getattr(program, request["program"]))
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code or 0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
os._exit(0)  # to look through all for garbage once more takes a second
"""


@dataclass
class Command:
    """A running `python train.py ...`, or another program."""

    server: subprocess.Popen[str]
    process: int
    output: Path
    status: int | None = None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process, number)

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit status, or minus the number of the signal that ended it; one that hangs is ended, and fails."""
        end = time.monotonic() + patience
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                pytest.fail(f"a command hangs: {self.text()}")
            time.sleep(0.005)
        assert self.status is not None
        return self.status

    def poll(self) -> int | None:
        """The exit status of a process that has ended."""
        if self.status is None and (text := _ask(self.server, {"poll": self.process}).strip()):
            self.status = int(text)
        return self.status

    def terminate(self) -> None:
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def text(self) -> str:
        """What it said, without the line of torch 2.9's own when workers meet."""
        return re.sub(r"(?m)^\[Gloo\] .*\n", "", self.output.read_text())


@dataclass
class Commands:
    """Starts `python train.py ...` in a folder."""

    server: subprocess.Popen[str]
    folder: Path
    started: int = 0

    def start(
        self, *arguments: str, program: str = "train", output: Path | None = None, errors: Path | None = None,
        **environment: str,
    ) -> Command:  # fmt: skip
        """Its errors go to its output, if not elsewhere."""
        self.started += 1
        output = output or self.folder / f"output-{self.started}.txt"
        output.touch()
        request = {"program": program, "arguments": arguments, "folder": str(self.folder), "environment": environment}
        request |= {"output": str(output), "errors": str(errors or output)}
        return Command(self.server, int(_ask(self.server, request)), output)

    def workers(self, count: int, *arguments: str) -> list[Command]:
        """As torchrun starts them."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
        return [self.start(*arguments, RANK=str(rank), LOCAL_RANK=str(rank), **place) for rank in range(count)]

    def start_training(self, options: list[str], output: IO[bytes] | None = None, *, threads: int | None = None) -> Command:
        """As g2lstm.commands has it; the number of threads stays."""
        del threads
        return self.start(*options, output=Path(output.name) if output else None)

    def run(self, *arguments: str) -> str:
        """The output of a command that succeeds."""
        command = self.start(*arguments)
        status = command.wait()
        assert status == 0, command.text()
        return command.text()

    def finished_and_killed(self, options: list[str], lines: int) -> list[Path]:
        """Two folders of one run: never stopped, and killed in an epoch after so many lines of its curve, and gone on with.

        Both have the same metrics, weights and state.
        """
        folders = [self.folder / "straight", self.folder / "killed"]
        self.run(*options, "run_dir=straight")
        killed, curve = self.start(*options, "run_dir=killed"), folders[1] / "metrics.jsonl"
        while not curve.exists() or curve.read_bytes().count(b"\n") < lines:
            time.sleep(0.01)
            assert "error" not in killed.text()
        killed.send(signal.SIGSTOP)
        while load_checkpoint(folders[1] / "last.safetensors")["position"]["batch"] == 0:  # between two epochs
            killed.send(signal.SIGCONT)
            time.sleep(0.005)
            killed.send(signal.SIGSTOP)
            assert killed.poll() is None, "it ended before it could be killed"
        killed.send(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        self.run("resume=killed")
        assert_same_run(*folders)
        return folders


def _ask(server: subprocess.Popen[str], request: dict[str, object]) -> str:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return server.stdout.readline()


@pytest.fixture(scope="session")
def fork_server() -> Iterator[subprocess.Popen[str]]:
    own = Path(__file__).parent / "own_task"  # a task that only this folder knows
    path = os.pathsep.join(map(str, (own, ROOT, ROOT / "experiments")))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        yield server
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture(scope="session")
def commands_in(fork_server: subprocess.Popen[str]) -> Callable[[Path], Commands]:
    return lambda folder: Commands(fork_server, folder)


@pytest.fixture
def commands(commands_in: Callable[[Path], Commands], tmp_path: Path) -> Commands:
    return commands_in(tmp_path)
