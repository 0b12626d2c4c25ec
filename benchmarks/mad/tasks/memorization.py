"""Memorization: facts that the weights have to hold."""

import dataclasses
from typing import ClassVar

import numpy as np

from benchmarks.mad.tasks.task import IGNORE, Examples, Task, expect


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memorization(Task):
    """Keys, each followed by the last token of the vocabulary, which asks for the key's value in a fixed dictionary.

    The lower half of the other tokens are keys, the upper half values.
    """

    name: ClassVar[str] = "memorization"
    vocab_size: int = 256
    seq_len: int = 32
    num_train: int = 256

    def check(self):
        super().check()
        expect(self.vocab_size >= 3, "a vocab_size of 3 or more", vocab_size=self.vocab_size)
        expect(self.seq_len >= 2 and self.seq_len % 2 == 0, "an even seq_len of 2 or more", seq_len=self.seq_len)

    def dictionary(self, seed):
        """Returns the pairs of keys and values, as an array of shape `(num_pairs, 2)`."""
        rng = np.random.default_rng(seed)
        num_keys = (self.vocab_size - 1) // 2
        keys = rng.permutation(num_keys)
        values = num_keys + rng.permutation(self.vocab_size - 1 - num_keys)
        return np.stack([keys, values[:num_keys]], axis=1)

    def sampler(self, seed):
        pairs = self.dictionary(seed)
        rng = np.random.default_rng(seed)
        num_slots = self.seq_len // 2
        # The published generator starts each sequence with a draw that it makes no use of.
        bounds = np.array([num_slots] + [len(pairs)] * num_slots)

        def draw(num_examples, training):
            rows = rng.integers(bounds, size=(num_examples, num_slots + 1))[:, 1:]
            drawn = pairs[rows]
            inputs = np.full((num_examples, self.seq_len), self.vocab_size - 1, "int32")
            targets = np.full_like(inputs, IGNORE)
            inputs[:, ::2], targets[:, 1::2] = drawn[..., 0], drawn[..., 1]
            return Examples(inputs, targets)

        return draw
