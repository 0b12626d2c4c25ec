import numpy as np
from mad_statistics import assert_uniform, lines

from benchmarks.mad.tasks import IGNORE, SelectiveCopying

BLANK, MARKER = 14, 15


def draw(num_examples, **settings):
    return SelectiveCopying(**settings).sampler(0)(num_examples, True)


# What the published generator gives too, with NumPy's global generator seeded alike.
def test_fixed_examples():
    data = SelectiveCopying(vocab_size=8, seq_len=16, num_tokens_to_copy=4, num_train=2, num_test=1).dataset()
    assert lines(data.train) + lines(data.test) == [
        "6 4 6 6 6 6 1 6 6 4 1 7 6 6 6 6 > . . . . . . . . . . . . 4 1 4 1",
        "1 6 6 6 6 4 6 6 6 3 4 7 6 6 6 6 > . . . . . . . . . . . . 1 4 3 4",
        "6 5 6 2 6 6 5 6 6 6 1 7 6 6 6 6 > . . . . . . . . . . . . 5 2 5 1",
    ]


def test_the_targets_are_the_tokens_before_the_marker_in_order():
    inputs, targets = draw(50)
    assert (targets[:, :-16] == IGNORE).all()
    for sequence, asked in zip(inputs, targets[:, -16:]):
        assert np.array_equal(sequence[sequence < BLANK], asked)
    assert (inputs[:, -17] == MARKER).all()
    assert (inputs[:, -16:] == BLANK).all()
    assert (np.sum(inputs == MARKER, axis=1) == 1).all()


def test_the_token_before_the_marker_is_never_blank():
    assert (draw(200).inputs[:, -18] < BLANK).all()


def test_tokens_are_uniform():
    assert_uniform(draw(500).targets[:, -16:], 14)


def test_each_blank_stands_before_a_uniform_token():
    before_marker = draw(300).inputs[:, :-17]
    followers = np.cumsum(before_marker < BLANK, axis=1)[before_marker == BLANK]
    assert_uniform(followers, 16)


def test_a_sequence_of_many_tokens_has_them_all():
    inputs, targets = draw(5, num_tokens_to_copy=96)
    assert (np.sum(inputs < BLANK, axis=1) == 96).all()
    assert (np.sum(targets != IGNORE, axis=1) == 96).all()
