"""Fuzzy in-context recall: keys and values are several tokens long."""

import dataclasses
from typing import ClassVar

import numpy as np

from benchmarks.mad.tasks.task import Task, expect, shifted

_BLOCK = 1024  # pairs drawn at once; another size gives other examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuzzyInContextRecall(Task):
    """Pairs of a key motif and a value motif; within a sequence a key keeps its value, and the last key asks for it.

    A motif is an ordered choice of distinct tokens. Of the tokens but the last, which pads sequences on the left, the
    lower half are for keys, the upper half for values. Sizes of motifs are uniform, but a test's keys are of full size.
    A test scores the values of keys that have appeared before and the last; training scores every next token.

    As published, the last key may never have appeared: in 2.3% of the baseline's test sequences.

    Attributes:
        k_motif_size: Largest number of tokens of a key.
        v_motif_size: Largest number of tokens of a value.
    """

    name: ClassVar[str] = "fuzzy-in-context-recall"
    targets_differ: ClassVar[bool] = True
    vocab_size: int = 16
    seq_len: int = 128
    k_motif_size: int = 3
    v_motif_size: int = 3

    @property
    def pad(self):
        """The token that pads sequences."""
        return self.vocab_size - 1

    @property
    def num_key_tokens(self):
        """Number of tokens for keys, from 0 on; those for values follow."""
        return self.pad // 2

    def check(self):
        super().check()
        sizes = {"k_motif_size": self.k_motif_size, "v_motif_size": self.v_motif_size}
        expect(min(sizes.values()) >= 1, "motifs of 1 or more tokens", **sizes)
        enough = self.num_key_tokens >= self.k_motif_size and self.pad - self.num_key_tokens >= self.v_motif_size
        expect(enough, "a vocab_size with enough tokens for the motifs", vocab_size=self.vocab_size, **sizes)
        fits = self.seq_len > 2 * sum(sizes.values())
        expect(fits, "a seq_len above twice the sum of the motifs' sizes", seq_len=self.seq_len, **sizes)

    def sampler(self, seed):
        rng = np.random.default_rng(seed)

        def draw(num_examples, training):
            tokens = np.full((num_examples, self.seq_len + 1), self.pad, "int32")
            scored = np.zeros((num_examples, self.seq_len + 1), bool)
            pairs = self._pairs(rng, training)
            for row in range(num_examples):
                sequence, asked = self._sequence(rng, pairs)
                tokens[row, -len(sequence) :], scored[row, -len(sequence) :] = sequence, asked
            return shifted(tokens, scored, training)

        return draw

    def _sequence(self, rng, pairs):
        """Returns the tokens of one sequence without its pads, and which of them a test scores."""
        probe, value = next(pairs)
        probe_size = len(probe) + len(value)
        probe_at = rng.integers(self.seq_len - 2 * probe_size)
        values, seen, tokens, scored = {probe: value}, set(), [], []
        while len(tokens) < self.seq_len - probe_size - self.k_motif_size - self.v_motif_size:
            key, value = next(pairs)
            if len(tokens) >= probe_at and probe not in seen:
                key = probe
            value = values.setdefault(key, value)
            tokens += key + value
            scored += [False] * len(key) + [key in seen] * len(value)
            seen.add(key)
        value = values[probe]
        return [*tokens, *probe, *value], [*scored, *[False] * len(probe), *[True] * len(value)]

    def _pairs(self, rng, training):
        """Yields a key motif and a value motif, independent and uniform, for ever.

        The published generator lists and shuffles all motifs for each sequence, which takes seconds where the
        vocabulary is large; drawing the tokens of a motif has the same distribution.
        """
        num_values = self.pad - self.num_key_tokens
        smallest_key = 1 if training else self.k_motif_size
        while True:
            key_sizes = rng.integers(smallest_key, self.k_motif_size + 1, size=_BLOCK).tolist()
            value_sizes = rng.integers(1, self.v_motif_size + 1, size=_BLOCK).tolist()
            keys = _distinct(rng, self.num_key_tokens, self.k_motif_size).tolist()
            values = (self.num_key_tokens + _distinct(rng, num_values, self.v_motif_size)).tolist()
            for key_size, value_size, key, value in zip(key_sizes, value_sizes, keys, values):
                yield tuple(key[:key_size]), tuple(value[:value_size])


def _distinct(rng, num_tokens, size):
    """Returns `_BLOCK` uniform ordered choices of `size` distinct tokens."""
    tokens = rng.integers(num_tokens - np.arange(size), size=(_BLOCK, size))
    for column in range(1, size):
        # The place among the tokens that are left becomes a token: one further for each that is taken and not above it.
        for taken in np.sort(tokens[:, :column], axis=1).T:
            tokens[:, column] += tokens[:, column] >= taken
    return tokens
