"""Ctrl-C, SIGTERM, a closed terminal and a scheduler's SIGUSR2 as requests to stop, answered when a run has saved."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from g2lstm.training import workers


class Interrupted(Exception):  # noqa: N818 - no error, as KeyboardInterrupt
    """The run was asked to stop; everything is saved."""


SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2")


class StopSignals:
    """Turns `SIGNALS` into a request while it is entered; a second signal ends the process at once.

    A scheduler's own handler of SIGUSR2, as submitit's that queues the job again, is called on leaving, once all is saved.
    """

    def __init__(self) -> None:
        self.asked = False  # a signal has come
        self._at_once = False
        self._number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        with contextlib.suppress(ValueError):  # outside the main thread nobody can listen
            numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
            heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
            self._before = {number: signal.signal(number, self._ask) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        last = self._number
        if last is not None and last == getattr(signal, "SIGUSR2", None) and callable(self._before.get(last)):
            signal.raise_signal(last)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that a resumed run does again, as an evaluation: here a request raises Interrupted wherever it comes.

        Of several workers none leaves the others alone with the work: they agree before it, and then do it to its end.
        """
        self._at_once = workers.count() == 1
        try:
            if any(workers.anyone(self.asked)):
                raise Interrupted
            yield
        finally:
            self._at_once = False

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked, self._number = True, number
        if self._at_once:
            raise Interrupted
