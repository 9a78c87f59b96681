"""The error a user sees without a traceback."""


class UserError(Exception):
    """A mistake that the user can mend.

    Its text is one line: the value, the cause and the way out. Commands print it alone and exit with status 2.
    """
