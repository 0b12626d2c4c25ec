"""In-context recall, plain and noisy: a key that was seen before asks for the value that stood behind it."""

import dataclasses
from typing import ClassVar

import numpy as np

from benchmarks.mad.tasks.task import Task, expect, shifted


@dataclasses.dataclass(frozen=True, kw_only=True)
class InContextRecall(Task):
    """Pairs of a key and a value; within a sequence a key keeps its value.

    The lower half of the tokens that are not noise are keys, the upper half values. A test scores the values of keys
    that have appeared before; training scores every next token. A slot but the last may be two tokens of noise.

    Attributes:
        noise_vocab_size: How many of the tokens, the highest, are noise.
        frac_noise: Probability that a slot is noise, in `[0, 1)`.
    """

    name: ClassVar[str] = "in-context-recall"
    targets_differ: ClassVar[bool] = True
    vocab_size: int = 16
    seq_len: int = 128
    noise_vocab_size: int = 0
    frac_noise: float = 0.0

    @property
    def input_length(self):
        return self.seq_len - 1

    @property
    def num_useful(self):
        """Number of keys and values; tokens from this one on are noise."""
        return self.vocab_size - self.noise_vocab_size

    def check(self):
        super().check()
        expect(self.seq_len >= 4 and self.seq_len % 2 == 0, "an even seq_len of 4 or more", seq_len=self.seq_len)
        expect(0 <= self.frac_noise < 1, "frac_noise of at least 0 and below 1", frac_noise=self.frac_noise)
        noise = {"noise_vocab_size": self.noise_vocab_size, "frac_noise": self.frac_noise}
        expect(self.noise_vocab_size >= (self.frac_noise > 0), "a token of noise where there is noise", **noise)
        sizes = {"vocab_size": self.vocab_size, "noise_vocab_size": self.noise_vocab_size}
        expect(self.num_useful >= 2, "a vocab_size of two or more tokens beside the noise", **sizes)

    def sampler(self, seed):
        rng = np.random.default_rng(seed)

        def draw(num_examples, training):
            tokens = np.empty((num_examples, self.seq_len), "int32")
            scored = np.empty((num_examples, self.seq_len), bool)
            for row in range(num_examples):
                tokens[row], scored[row] = self._sequence(rng)
            return shifted(tokens, scored, training)

        return draw

    def _sequence(self, rng):
        """Returns the tokens of one sequence, and which of them a test scores.

        Draws are in the order of the published generator, one by one: how many there are depends on what they are.
        """
        below, noisy = rng.integers, self.frac_noise > 0
        num_keys = self.num_useful // 2
        num_values = self.num_useful - num_keys
        num_pairs = self.seq_len // 2
        values, tokens, scored = {}, [], []
        guard = below(num_pairs)  # this slot is no noise
        for slot in range(num_pairs - 1):
            if noisy and slot != guard and rng.random() < self.frac_noise:
                tokens += (self.num_useful + int(below(self.noise_vocab_size)) for _ in range(2))
                scored += (False, False)
                continue
            key = int(below(num_keys))
            scored += (False, key in values)
            if key not in values:
                values[key] = num_keys + int(below(num_values))
            tokens += (key, values[key])
        if not values:  # all noise, as the guard was the last slot: there is nothing to recall
            return self._sequence(rng)
        key = list(values)[below(len(values))]
        return [*tokens, key, values[key]], [*scored, False, True]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyInContextRecall(InContextRecall):
    """In-context recall with noise between the pairs."""

    name: ClassVar[str] = "noisy-in-context-recall"
    vocab_size: int = 32
    noise_vocab_size: int = 16
    frac_noise: float = 0.2
