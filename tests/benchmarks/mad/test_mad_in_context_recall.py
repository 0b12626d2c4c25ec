import numpy as np
import pytest
from mad_statistics import assert_mean, assert_uniform, lines, scored

from benchmarks.mad.tasks import IGNORE, InContextRecall, NoisyInContextRecall


def tokens(examples):
    """Returns the sequences whole: the last token is a target alone."""
    return np.concatenate([examples.inputs, examples.targets[:, -1:]], axis=1)


def draw(task, num_examples, training=False, seed=0):
    return task.sampler(seed)(num_examples, training)


# What the published generator gives too.
def test_fixed_examples():
    data = InContextRecall(vocab_size=8, seq_len=16, num_train=2, num_test=1).dataset()
    assert lines(data.train) + lines(data.test) == [
        "0 7 1 4 3 6 2 7 1 4 3 6 1 4 3 > 7 1 4 3 6 2 7 1 4 3 6 1 4 3 6",
        "0 4 0 4 2 6 3 6 0 4 3 6 3 6 3 > 4 0 4 2 6 3 6 0 4 3 6 3 6 3 6",
        "0 4 1 5 0 4 3 5 2 4 1 5 0 4 3 > . . . . 4 . . . . . 5 . 4 . 5",
    ]


# What the published generator gives too.
def test_fixed_noisy_examples():
    sizes = {"vocab_size": 12, "noise_vocab_size": 4, "seq_len": 16}
    data = NoisyInContextRecall(**sizes, frac_noise=0.4, num_train=2, num_test=1).dataset()
    assert lines(data.train) + lines(data.test) == [
        "8 8 3 7 9 10 10 8 2 6 0 7 3 7 3 > 8 3 7 9 10 10 8 2 6 0 7 3 7 3 7",
        "1 5 1 5 10 8 10 10 8 10 1 5 10 11 1 > 5 1 5 10 8 10 10 8 10 1 5 10 11 1 5",
        "8 8 0 7 3 5 3 5 2 7 2 7 2 7 3 > . . . . . . 5 . . . 7 . 7 . 5",
    ]


@pytest.mark.parametrize("task", [InContextRecall(), InContextRecall(vocab_size=13), NoisyInContextRecall()], ids=repr)
def test_the_test_scores_values_of_keys_that_have_appeared_and_the_last(task):
    examples = draw(task, 20)
    num_keys = task.num_useful // 2
    for sequence, targets in zip(tokens(examples).tolist(), examples.targets.tolist()):
        values, expected = {}, []
        for key, value in zip(sequence[::2], sequence[1::2]):
            noise = key >= task.num_useful
            expected += [value if key in values and not noise else IGNORE, IGNORE]
            if noise:
                assert value >= task.num_useful
            else:
                assert key < num_keys <= value < task.num_useful
                assert values.setdefault(key, value) == value
        assert targets == expected[:-1]
        assert targets[-1] != IGNORE


def test_training_draws_the_same_sequences_and_scores_all_of_them():
    train, test = draw(InContextRecall(), 5, training=True), draw(InContextRecall(), 5)
    assert np.array_equal(tokens(train), tokens(test))
    assert np.array_equal(train.targets, tokens(train)[:, 1:])


# All pairs but the first of each key: the last slot repeats one of those before it.
@pytest.mark.parametrize("vocab_size", [16, 128])
def test_number_of_scored_positions(vocab_size):
    num_keys, num_pairs = vocab_size // 2, 64
    appeared = num_keys * (1 - (1 - 1 / num_keys) ** (num_pairs - 1))
    assert_mean(scored(draw(InContextRecall(vocab_size=vocab_size), 500).targets), num_pairs - appeared)


# Measured with the published generator.
@pytest.mark.parametrize(("frac_noise", "expected"), [(0.2, 43.6), (0.8, 7.8)])
def test_number_of_scored_positions_with_noise(frac_noise, expected):
    counts = scored(draw(NoisyInContextRecall(frac_noise=frac_noise), 1000).targets)
    assert_mean(counts, expected, error=np.std(counts) / np.sqrt(1280))
    if frac_noise == 0.2:
        assert abs(np.std(counts) - 3.2) < 0.3


def test_keys_and_values_are_uniform():
    sequences = tokens(draw(InContextRecall(vocab_size=32), 500))
    assert_uniform(sequences[:, :-2:2], 16)
    assert_uniform(sequences[:, 1], 16, first=16)


def test_the_last_key_is_uniform_among_those_that_appeared():
    sequences = tokens(draw(InContextRecall(), 1000))
    order = [list(dict.fromkeys(row[:-2:2])).index(row[-2]) for row in sequences.tolist()]
    assert_uniform(order, 8)


def test_noise_comes_in_uniform_pairs_at_any_slot_but_one_and_the_last():
    task = NoisyInContextRecall()
    sequences = tokens(draw(task, 500))
    noise = sequences >= 16
    assert np.array_equal(noise[:, ::2], noise[:, 1::2])
    assert not noise[:, -2:].any()
    # One of the 64 slots is no noise, and that may be the last.
    assert_mean(noise[:, :-2:2].ravel(), 0.2 * 63 / 64)
    assert_uniform(sequences[noise], 16, first=16)


def test_a_sequence_that_is_all_noise_is_drawn_anew():
    # One slot beside the last, which is noise in 45% of the draws.
    task = NoisyInContextRecall(vocab_size=6, noise_vocab_size=2, seq_len=4, frac_noise=0.9)
    sequences = tokens(draw(task, 50))
    assert np.array_equal(sequences[:, :2], sequences[:, 2:])
    assert sequences.max() < 4
