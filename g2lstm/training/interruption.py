"""Ctrl-C and SIGTERM as requests to stop, which a run answers when it has saved."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupted(Exception):  # noqa: N818 - no error, as KeyboardInterrupt
    """The run was asked to stop; everything is saved."""


class StopSignals:
    """Turns SIGINT and SIGTERM into a request while it is entered; a second signal ends the process at once.

    Attributes:
        asked: a signal has come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        with contextlib.suppress(ValueError):  # outside the main thread nobody can listen
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that a resumed run does again, as an evaluation: here a request raises Interrupted wherever it comes."""
        self._at_once = True
        try:
            if self.asked:
                raise Interrupted
            yield
        finally:
            self._at_once = False

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = True
        if self._at_once:
            raise Interrupted
