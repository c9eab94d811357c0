"""The error that a caller of `model` is meant to read."""


class ModelError(ValueError):
    """A model, checkpoint or class list that cannot be used. Names the object, the cause and the remedy."""
