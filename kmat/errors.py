"""The one exception that reaches the user as a line of text instead of a traceback."""


class UserError(Exception):
    """Something the user can mend; the message says what arrived and what to do about it."""
