"""The text that ships with the package."""

from keras_laurel.datasets import tinyshakespeare


def test_text_is_the_customary_one():
    text = tinyshakespeare.load_text()
    assert len(text) == 1115394
    assert len(set(text)) == 65
    assert text.startswith("First Citizen:\nBefore we proceed any further")
