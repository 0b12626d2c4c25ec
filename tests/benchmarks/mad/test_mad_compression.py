import numpy as np
from mad_statistics import assert_uniform, lines

from benchmarks.mad.tasks import Compression


# What the published generator gives too.
def test_fixed_examples():
    data = Compression(vocab_size=8, seq_len=8, num_train=2, num_test=1).dataset()
    assert lines(data.train) + lines(data.test) == [
        "4 1 5 2 1 5 4 7 > 4 1 5 2 1 5 4 7",
        "4 6 2 5 2 3 4 7 > 4 6 2 5 2 3 4 7",
        "1 1 1 4 4 6 4 7 > 1 1 1 4 4 6 4 7",
    ]


def test_the_targets_are_the_inputs_of_which_the_last_is_the_mark():
    data = Compression(num_train=20, num_test=20).dataset()
    for inputs, targets in (data.train, data.test):
        assert np.array_equal(inputs, targets)
        assert (inputs[:, -1] == 15).all()
        assert (inputs[:, :-1] < 15).all()


def test_tokens_are_uniform():
    inputs, _ = Compression().sampler(0)(300, True)
    assert_uniform(inputs[:, :-1], 15)
