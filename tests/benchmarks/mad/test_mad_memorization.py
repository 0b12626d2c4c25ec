import numpy as np
import pytest
from mad_statistics import assert_mean, assert_uniform, lines

from benchmarks.mad.tasks import IGNORE, SEED, Memorization


# What the published generator gives too.
def test_fixed_examples():
    data = Memorization(vocab_size=16, seq_len=8, num_train=2, num_test=1).dataset()
    assert lines(data.train) + lines(data.test) == [
        "3 15 6 15 0 15 3 15 > . 11 . 10 . 13 . 11",
        "1 15 1 15 5 15 0 15 > . 8 . 8 . 7 . 13",
        "0 15 2 15 1 15 3 15 > . 13 . 14 . 8 . 11",
    ]


@pytest.mark.parametrize(("vocab_size", "num_pairs"), [(256, 127), (8192, 4095), (255, 127)])
def test_the_dictionary_gives_each_key_a_value_of_its_own(vocab_size, num_pairs):
    keys, values = Memorization(vocab_size=vocab_size).dictionary(SEED).T
    assert sorted(keys) == list(range(num_pairs))
    assert len(set(values)) == num_pairs
    assert num_pairs <= min(values) <= max(values) <= vocab_size - 2


def test_the_dictionary_depends_on_the_seed_alone():
    small, large = Memorization(), Memorization(num_train=1024, seq_len=64)
    assert np.array_equal(small.dictionary(1), large.dictionary(1))
    assert not np.array_equal(small.dictionary(1), small.dictionary(2))


def test_keys_stand_before_marks_that_ask_for_their_values_in_training_and_test():
    task = Memorization(num_train=20, num_test=20)
    values, data = dict(task.dictionary(SEED).tolist()), task.dataset()
    for inputs, targets in (data.train, data.test):
        assert (inputs[:, 1::2] == 255).all()
        assert (targets[:, ::2] == IGNORE).all()
        assert [values[key] for key in inputs[:, ::2].ravel()] == targets[:, 1::2].ravel().tolist()


def test_keys_are_uniform():
    inputs, _ = Memorization().sampler(0)(256, True)
    assert_uniform(inputs[:, ::2], 127)


# 4,096 draws among K keys.
def test_how_many_of_the_keys_the_training_examples_cover():
    covered = []
    for seed in range(20):
        inputs = Memorization(vocab_size=8192).sampler(seed)(256, True).inputs
        covered.append(len(set(inputs[:, ::2].ravel())) / 4095)
    assert_mean(covered, 1 - (1 - 1 / 4095) ** 4096)
