"""What keeps a dataset from being trained on."""


class DataError(ValueError):
    """A dataset, or one of its samples, cannot be used; the message names it and says all, without a traceback."""
