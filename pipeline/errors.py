"""The errors that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend. The message is one line: the object, the cause, the remedy."""


class OutageError(UserError):
    """A storage or a cluster does not answer. The same may work later, as it stands."""
