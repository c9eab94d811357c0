"""The error that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend. The message is one line: the object, the cause, the remedy."""
