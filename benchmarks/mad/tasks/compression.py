"""Compression: a sequence has to pass through the state at one position."""

import dataclasses
from typing import ClassVar

import numpy as np

from benchmarks.mad.tasks.task import Examples, Task, expect


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compression(Task):
    """Random tokens and then the last of the vocabulary, at whose place the model takes what it decodes them all from.

    As published, that token is a target too.
    """

    name: ClassVar[str] = "compression"
    backbone: ClassVar[str] = "auto-encoder"
    vocab_size: int = 16
    seq_len: int = 32

    def check(self):
        super().check()
        expect(self.vocab_size >= 2, "a vocab_size of 2 or more", vocab_size=self.vocab_size)
        expect(self.seq_len >= 2, "a seq_len of 2 or more", seq_len=self.seq_len)

    def sampler(self, seed):
        rng = np.random.default_rng(seed)

        def draw(num_examples, training):
            inputs = np.full((num_examples, self.seq_len), self.vocab_size - 1, "int32")
            inputs[:, :-1] = rng.integers(self.vocab_size - 1, size=(num_examples, self.seq_len - 1))
            return Examples(inputs, inputs.copy())

        return draw
