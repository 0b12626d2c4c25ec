"""One megabyte of Shakespeare's plays, the customary first text of small language models. Public domain."""

import importlib.resources


def load_text():
    """Returns the text: 1,115,394 characters, 65 different ones.

    Example:
    >>> keras_laurel.datasets.tinyshakespeare.load_text()[:14]
    'First Citizen:'
    """
    return importlib.resources.files("keras_laurel.datasets").joinpath("tinyshakespeare.txt").read_text("utf-8")
