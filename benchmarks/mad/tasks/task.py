"""What the tasks share: sizes, and how examples become a dataset."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np

IGNORE = -100  # the target of a position that is not scored
SEED = 12345  # of the published data


class Examples(NamedTuple):
    """Sequences of tokens, and what is to be predicted at each position.

    Attributes:
        inputs: int32 array of shape `(num_examples, length)`.
        targets: int32 array of the same shape; `IGNORE` where nothing is scored.
    """

    inputs: np.ndarray
    targets: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The examples of one task and seed.

    Attributes:
        train: `Examples` to train on.
        test: `Examples` drawn after those.
        validation: `Examples` of the test's form, drawn after the test's; none unless asked for.
        vocab_size: Number of tokens, special ones included.
        targets_differ: Whether training scores every next token, and the test but some.
        ignore_index: The target of positions that are not scored.
    """

    train: Examples
    test: Examples
    validation: Examples
    vocab_size: int
    targets_differ: bool
    ignore_index: int = IGNORE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A task and its settings; equal settings and seeds give equal examples.

    Attributes:
        name: Of the task, as published.
        backbone: The model that the task is for, "language-model" or "auto-encoder".
        targets_differ: Whether training scores every next token, and the test but some.
        vocab_size: Number of tokens, special ones included.
        seq_len: Length of a sequence, before the shift of the tasks that have one.
        num_train: Number of training examples.
        num_test: Number of test examples.
    """

    name: ClassVar[str]
    backbone: ClassVar[str] = "language-model"
    targets_differ: ClassVar[bool] = False
    vocab_size: int
    seq_len: int
    num_train: int = 12_800
    num_test: int = 1_280

    def __post_init__(self):
        self.check()

    @property
    def input_length(self):
        """The length of what a model sees."""
        return self.seq_len

    def check(self):
        """Refuses settings that are out of range.

        Raises:
            ValueError: If one is.
        """
        expect(self.num_train >= 1, "num_train of 1 or more", num_train=self.num_train)
        expect(self.num_test >= 1, "num_test of 1 or more", num_test=self.num_test)

    def sampler(self, seed) -> Callable[[int, bool], Examples]:
        """Returns a function of a number of examples and whether they are to train on, which draws the next ones."""
        raise NotImplementedError

    def dataset(self, seed=SEED, num_validation=0):
        """Returns the `Dataset` of a seed, drawn in the order train, test, validation.

        Args:
            seed: Integer; that of the published data by default.
            num_validation: Number of examples to choose settings with. The others do not depend on it.
        """
        expect(num_validation >= 0, "num_validation of 0 or more", num_validation=num_validation)
        draw = self.sampler(seed)
        train, test, validation = draw(self.num_train, True), draw(self.num_test, False), draw(num_validation, False)
        return Dataset(train, test, validation, self.vocab_size, self.targets_differ)


def expect(holds, what, **received):
    """Raises the `ValueError` of a setting that is out of range, unless `holds`."""
    if not holds:
        values = ", ".join(f"{name}={value}" for name, value in received.items())
        raise ValueError(f"Expected {what}. Received: {values}")


def shifted(tokens, scored, training):
    """Returns the `Examples` of next-token prediction.

    Args:
        tokens: Integer array of shape `(num_examples, length)`.
        scored: Boolean array of that shape: which tokens the test asks for.
        training: Whether every next token is a target.
    """
    targets = tokens if training else np.where(scored, tokens, IGNORE)
    return Examples(tokens[:, :-1].astype("int32"), targets[:, 1:].astype("int32"))
