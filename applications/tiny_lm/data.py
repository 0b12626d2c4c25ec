"""Characters as tokens: the text, its held-out tenth, and batches that depend on the seed and the step alone."""

import dataclasses
from pathlib import Path

import numpy as np

from applications.errors import UserError
from keras_laurel.datasets import tinyshakespeare


@dataclasses.dataclass(frozen=True)
class Text:
    """A text as integer tokens.

    Attributes:
        name: Where it is from.
        characters: The vocabulary, a sorted string.
        train: Array of the tokens to train on, the first nine tenths.
        held_out: Array of the tokens never trained on, the last tenth.
    """

    name: str
    characters: str
    train: np.ndarray
    held_out: np.ndarray

    def batch(self, seed, step, batch_size, context):
        """Returns `(inputs, targets)`, each `(batch_size, context)`: the batch of that seed and step."""
        starts = np.random.default_rng([seed, step]).integers(len(self.train) - context, size=batch_size)
        windows = self.train[starts[:, None] + np.arange(context + 1)]
        return windows[:, :-1], windows[:, 1:]

    def held_out_windows(self, context, most=512):
        """Returns `(inputs, targets)`: up to `most` windows spread evenly over the held-out text."""
        count = min(most, (len(self.held_out) - 1) // context)
        starts = np.linspace(0, len(self.held_out) - context - 1, count).astype(int)
        windows = self.held_out[starts[:, None] + np.arange(context + 1)]
        return windows[:, :-1], windows[:, 1:]

    def decode(self, tokens):
        """Returns the string of `tokens`."""
        return "".join(self.characters[token] for token in tokens)


def load_text(path, context):
    """Reads a text file, or the built-in tinyshakespeare for `None`.

    Args:
        path: Path of a UTF-8 text file, or `None`.
        context: Number of tokens in a window, which the held-out tenth must hold at least once.

    Returns:
        A `Text`.

    Raises:
        UserError: If the file cannot be read or decoded, or is too short.
    """
    if path is None:
        name, text = "tinyshakespeare", tinyshakespeare.load_text()
    else:
        name = Path(path).name
        try:
            text = Path(path).read_text("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from error
        except OSError as error:
            raise UserError(f"cannot read the text {path}: {error.strerror}") from error
    needed = 10 * (context + 1)
    if len(text) < needed:
        raise UserError(f"{name} has {len(text)} characters; training with a context of {context} needs {needed}")
    codes = np.frombuffer(text.encode("utf-32-le"), "uint32")
    vocabulary, tokens = np.unique(codes, return_inverse=True)
    train, held_out = np.split(tokens.astype("int32"), [len(tokens) * 9 // 10])
    return Text(name, "".join(map(chr, vocabulary)), train, held_out)
