"""Experiment trackers: none, or Weights & Biases. A tracker never stops a run."""

from __future__ import annotations

import importlib
import netrc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from g2lstm.errors import UserError

TRACKERS = ("none", "wandb")
# Seconds until a missing network is noticed; wandb's own 90 are long to look at a silent screen.
INIT_TIMEOUT = 30.0


class Tracker:
    """Passes metrics on to a tracker's run, or nowhere.

    Args:
        run: what a tracker's `init` gave, or None to track nothing.
        say: prints one line.
        run_id: the tracker's name for a run that it could not go on with this time.
    """

    def __init__(self, run: Any = None, say: Callable[[str], None] = print, run_id: str | None = None) -> None:
        self._run, self._say = run, say
        self.run_id: str | None = run_id if run is None else str(run.id)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Passes on one step's metrics. If that fails it says so in a line, and tracks no more."""
        self._attempt(lambda run: run.log(dict(metrics), step=step))

    def log_page(self, name: str, content: str) -> None:
        """Shows an HTML page beside the run's metrics."""
        self._attempt(lambda run: run.log({name: _import_wandb().Html(content, inject=False)}))

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
    name: str,
    *,
    project: str,
    config: Mapping[str, Any],
    run_dir: str | os.PathLike[str],
    run_id: str | None = None,
    mode: str | None = None,
    say: Callable[[str], None] = print,
) -> Tracker:
    """A tracker by name.

    Args:
        name: "none" or "wandb".
        project: the tracker's project.
        config: what the run is, shown beside its metrics.
        run_dir: where the tracker keeps its own files.
        run_id: the tracker's run to go on with; None begins one.
        mode: wandb's mode. None leaves it to WANDB_MODE, and to "offline" where wandb can't start (no key, no network).
        say: prints one line.

    Raises:
        UserError: wandb is not installed.
        ValueError: on an unknown name.
    """
    if name not in TRACKERS:
        raise ValueError(f"the tracker must be one of {', '.join(TRACKERS)}, got {name!r}")
    if name == "none":
        return Tracker(say=say)
    options: dict[str, Any] = {"project": project, "config": dict(config), "dir": os.fspath(run_dir)}
    options |= {"id": run_id, "resume": "allow"}
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        options["settings"] = {"init_timeout": INIT_TIMEOUT}
    return Tracker(_start(_import_wandb(), options, mode, say), say, run_id)


def _import_wandb() -> Any:
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        wandb = None
    # A folder named wandb, which wandb itself leaves behind, imports too, as an empty namespace.
    if not hasattr(wandb, "init"):
        raise UserError("tracker=wandb needs the wandb package: pip install wandb, or choose tracker=none")
    return wandb


def _start(wandb: Any, options: dict[str, Any], mode: str | None, say: Callable[[str], None]) -> Any:
    # An explicit mode overrides WANDB_MODE, so none is passed unless the user chose one.
    asked = options if mode is None else options | {"mode": mode}
    if mode is None and "WANDB_MODE" not in os.environ and not _has_key():
        reason = "no API key: wandb login, or set WANDB_API_KEY"  # on a terminal wandb would wait for one to be typed
    else:
        try:
            return wandb.init(**asked)
        except Exception as error:
            reason = _one_line(error)
    try:
        run = wandb.init(**options, mode="offline")
    except Exception as error:
        say(f"no tracking, the run goes on without: {_one_line(error)}")
        return None
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
