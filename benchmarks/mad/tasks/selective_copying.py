"""Selective copying: repeat the tokens that stood between blanks, in order."""

import dataclasses
from typing import ClassVar

import numpy as np

from benchmarks.mad.tasks.task import IGNORE, Examples, Task, expect


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectiveCopying(Task):
    """Tokens with blanks before them, a marker, then a blank for each token: there the tokens are asked for.

    The last token of the vocabulary is the marker, the one before it the blank.

    Attributes:
        num_tokens_to_copy: Number of tokens that are not blank.
    """

    name: ClassVar[str] = "selective-copying"
    vocab_size: int = 16
    seq_len: int = 256
    num_tokens_to_copy: int = 16

    @property
    def blank(self):
        """The token between the others."""
        return self.vocab_size - 2

    @property
    def marker(self):
        """The token that says when to copy."""
        return self.vocab_size - 1

    def check(self):
        super().check()
        expect(self.vocab_size >= 3, "a vocab_size of 3 or more", vocab_size=self.vocab_size)
        num = self.num_tokens_to_copy
        expect(num >= 1, "num_tokens_to_copy of 1 or more", num_tokens_to_copy=num)
        fits = self.seq_len > 2 * num + 1
        expect(fits, "a seq_len above 2 num_tokens_to_copy + 1", seq_len=self.seq_len, num_tokens_to_copy=num)

    def sampler(self, seed):
        rng = np.random.default_rng(seed)
        # The published generator draws the places of the blanks from NumPy's global generator, seeded alike.
        places = np.random.RandomState(seed)
        num = self.num_tokens_to_copy
        num_blanks = self.seq_len - 2 * num - 1

        def draw(num_examples, training):
            content = rng.integers(self.vocab_size - 2, size=(num_examples, num))
            followers = places.randint(0, num, size=(num_examples, num_blanks))
            rows = np.arange(num_examples)[:, None]
            blanks = np.bincount((rows * num + followers).ravel(), minlength=num_examples * num)
            positions = np.cumsum(blanks.reshape(-1, num), axis=1) + np.arange(num)
            inputs = np.full((num_examples, self.seq_len), self.blank, "int32")
            inputs[rows, positions] = content
            inputs[:, -num - 1] = self.marker
            targets = np.full_like(inputs, IGNORE)
            targets[:, -num:] = content
            return Examples(inputs, targets)

        return draw
