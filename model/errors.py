"""The error that a caller of `model` is meant to read."""


class ModelError(ValueError):
    """A model, checkpoint or class list that cannot be used. Names the object, the cause and the remedy."""


def first_line(err: Exception) -> str:
    """What `err` says, in one line; its type where it says nothing."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] if lines else type(err).__name__
