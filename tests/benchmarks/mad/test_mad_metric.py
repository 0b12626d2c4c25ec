import math

import numpy as np
import pytest

from benchmarks.mad.metric import macro, macro_per_batch, micro, perplexity, perplexity_per_batch
from benchmarks.mad.tasks import IGNORE

# Class 0: 1 of 2, class 1: 1 of 1, class 2: 0 of 1, class 3: predicted alone; 9 stands where nothing is scored.
TARGETS = np.array([[0, 0, 1], [2, IGNORE, IGNORE]])
PREDICTIONS = np.array([[0, 1, 1], [3, 9, 9]])


def test_micro_by_hand():
    assert micro(PREDICTIONS, TARGETS) == 2 / 4


def test_macro_by_hand():
    assert macro(PREDICTIONS, TARGETS) == (1 / 2 + 1 + 0 + 0) / 4


def test_macro_is_averaged_over_batches_of_which_the_last_may_be_smaller():
    targets, predictions = np.concatenate([TARGETS, TARGETS[:1]]), np.concatenate([PREDICTIONS, TARGETS[:1]])
    assert macro_per_batch(predictions, targets, batch_size=2) == (0.375 + 1) / 2
    assert macro_per_batch(predictions, targets) == macro(predictions, targets) != (0.375 + 1) / 2


@pytest.mark.parametrize("score", [micro, macro, macro_per_batch])
def test_all_correct_is_one_and_all_wrong_zero(score):
    assert score(TARGETS, TARGETS) == 1
    assert score(TARGETS + 1, TARGETS) == 0


def test_one_stray_prediction_multiplies_macro_by_k_of_k_plus_one():
    targets = np.tile(np.arange(4), (1, 2500))
    predictions = targets.copy()
    predictions[0, 0] = 7
    assert micro(predictions, targets) == 0.9999
    assert macro(predictions, targets) == pytest.approx((4 - 1 / 2500) / 5)


def test_perplexity_by_hand():
    losses = np.array([[math.log(2), math.log(2), math.log(2)], [math.log(32), 99, np.nan]])
    assert perplexity(losses, TARGETS) == pytest.approx(2 ** ((1 + 1 + 1 + 5) / 4))
    assert perplexity_per_batch(losses, TARGETS, batch_size=1) == pytest.approx((2 + 32) / 2)
    assert perplexity_per_batch(losses, TARGETS) == pytest.approx(4)


def test_arrays_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"Received: values=\(2, 2\), targets=\(2, 3\)$"):
        micro(PREDICTIONS[:, 1:], TARGETS)


def test_a_batch_without_a_scored_position_is_refused():
    with pytest.raises(ValueError, match=r"Received: shape=\(1, 2\)$"):
        macro_per_batch(PREDICTIONS[:, 1:], TARGETS[:, 1:], batch_size=1)
