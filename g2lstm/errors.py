"""The error a user sees without a traceback, and how it names words."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake that the user can mend.

    Its text is one line: the value, the cause and the way out. Commands print it alone and exit with status 2.
    """


def quoted(words: Sequence[str], most: int = 5) -> str:
    """Words as a message has them: 'x', 'y', ..."""
    return ", ".join(repr(word) for word in words[:most]) + (", ..." if len(words) > most else "")
