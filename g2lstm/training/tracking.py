"""Experiment trackers: none, Weights & Biases, Trackio or TensorBoard. A tracker never stops a run."""

from __future__ import annotations

import importlib
import netrc
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from g2lstm.errors import UserError

# Seconds until a missing network is noticed; wandb's own 90 are long to look at a silent screen.
INIT_TIMEOUT = 30.0
Say = Callable[[str], None]


class Tracker:
    """Passes metrics on to a tracker's run, or nowhere.

    Args:
        run: what a tracker's `init` gave, or None to track nothing.
        say: prints one line.
        run_id: the tracker's name for its run, also for one that it could not go on with this time.
        html: makes of a page what the run can log; None where the tracker shows no pages.
    """

    def __init__(
        self, run: Any = None, say: Say = print, run_id: str | None = None, html: Callable[[str], Any] | None = None
    ) -> None:
        self._run, self._say, self.run_id, self._html = run, say, run_id, html

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Passes on one step's metrics. If that fails it says so in a line, and tracks no more."""
        self._attempt(lambda run: run.log(dict(metrics), step=step))

    def log_page(self, name: str, content: str) -> None:
        """Shows an HTML page beside the run's metrics, where the tracker can."""
        if html := self._html:
            self._attempt(lambda run: run.log({name: html(content)}))

    def finish(self) -> None:
        """Closes the tracker's run; later calls do nothing."""
        self._attempt(lambda run: run.finish())
        self._run = None

    def _attempt(self, action: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._run = None
            self._say(f"tracking stopped, the run goes on: {_one_line(error)}")


def build_tracker(
    name: str, *, project: str, config: Mapping[str, Any], run_dir: Path, run_id: str | None = None,
    run_name: str | None = None, group: str | None = None, tags: Sequence[str] = (), mode: str | None = None,
    say: Say = print,
) -> Tracker:  # fmt: skip
    """A tracker by name.

    Args:
        name: "none", "wandb", "trackio" or "tensorboard".
        project, config: where the run is shown, and what beside its metrics.
        run_dir: where the tracker keeps its own files.
        run_id: the tracker's run to go on with; None begins one.
        run_name, group: what people see; without them the last two parts of `run_dir`.
        tags: words to filter runs by, in wandb.
        mode: wandb's mode. None leaves it to WANDB_MODE, and to "offline" where wandb can't start (no key, no network).
        say: prints one line.

    Raises:
        UserError: the tracker's package is not installed.
    """
    if name == "none":
        return Tracker(say=say)
    package, folder = _import(name), Path(run_dir).absolute()
    options: dict[str, Any] = {"project": project, "config": dict(config), "resume": "allow"}
    options |= {"name": run_name or folder.name, "group": group or folder.parent.name}
    try:
        if name == "wandb":
            options |= {"id": run_id, "tags": list(tags) or None, "dir": str(run_dir)}
            run = _start_wandb(package, options, mode, say)
            return Tracker(run, say, str(run.id), lambda page: package.Html(page, inject=False))
        if name == "trackio":  # it tells runs apart by their names alone
            options["name"] = run_id = run_id or f"{options['name']}-{uuid.uuid4().hex[:6]}"
            return Tracker(package.init(**options, embed=False), say, run_id, package.Html)
        return Tracker(_TensorBoard(folder / "tensorboard", config), say, "tensorboard")
    except Exception as error:
        say(f"no tracking, the run goes on without: {_one_line(error)}")
        return Tracker(None, say, run_id)


class _TensorBoard:
    """TensorBoard's writer behind the calls that wandb's run has. Files are made at the first step."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._folder, self._config = folder, config
        self._writer: Any = None

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # A killed run that is resumed goes back to its checkpoint: what it logged after that is hidden.
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
            self._writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in self._config.items()), step)
        for key, value in metrics.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(key, value, step)

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _import(name: str) -> Any:
    try:
        package = importlib.import_module(name)
    except ImportError:
        package = None
    # A folder named wandb, which wandb itself leaves behind, imports too, as an empty namespace.
    if getattr(package, "__file__", None) is None and not hasattr(package, "init"):
        raise UserError(f"tracker={name} needs the {name} package: pip install 'g2lstm[{name}]', or choose tracker=none")
    return package


def _start_wandb(wandb: Any, options: dict[str, Any], mode: str | None, say: Say) -> Any:
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        options = options | {"settings": {"init_timeout": INIT_TIMEOUT}}
    if mode is None and "WANDB_MODE" not in os.environ and not _has_key():
        reason = "no API key: wandb login, or set WANDB_API_KEY"  # on a terminal wandb would wait for one to be typed
    else:
        try:  # an explicit mode overrides WANDB_MODE, so none is passed unless the user chose one
            return wandb.init(**options if mode is None else options | {"mode": mode})
        except Exception as error:
            reason = _one_line(error)
    run = wandb.init(**options, mode="offline")
    say(f"wandb is offline ({reason}); wandb sync {Path(run.dir).parent} uploads it later")
    return run


def _has_key() -> bool:
    """Whether wandb finds an API key or token without asking for one."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    own_server = urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any(host == own_server or "wandb" in host for host in hosts)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
