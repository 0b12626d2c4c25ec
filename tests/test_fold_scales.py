"""The system of differences behind fold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_laurel.folding.scales import Scales

many = settings(max_examples=50, deadline=None, derandomize=True, database=None)
nodes = st.integers(0, 5)


def tied(scales, names, truth, pairs):
    for i, j in pairs:
        scales.tie(names[i], names[j], truth[j] - truth[i])


@many
@given(st.lists(st.floats(-9, 9), min_size=6, max_size=6), st.lists(st.tuples(nodes, nodes)))
def test_what_is_tied_differs_as_asked_and_what_is_pinned_is_one(truth, pairs):
    scales, names = Scales(), [object() for _ in truth]
    scales.pin(names[0], "pinned")
    tied(scales, names, truth, pairs)
    assert scales[names[0]] == 0
    for i, j in pairs:
        assert abs(scales[names[j]] - scales[names[i]] - (truth[j] - truth[i])) < 1e-9


@many
@given(st.lists(st.floats(-9, 9), min_size=6, max_size=6), st.lists(st.tuples(nodes, nodes)), nodes, nodes)
def test_a_contradiction_is_an_error(truth, pairs, i, j):
    scales, names = Scales(), [object() for _ in truth]
    tied(scales, names, truth, [*pairs, (i, j)])
    with pytest.raises(ValueError, match="Received: this"):
        scales.tie(names[i], names[j], truth[j] - truth[i] + 0.1, why="this")


def test_an_error_says_what_led_to_it():
    scales, (a, b, c) = Scales(), [object() for _ in range(3)]
    scales.pin(a, "first")
    scales.tie(a, b, 1.0, "second")
    scales.tie(b, c)
    with pytest.raises(ValueError, match="Received: first; second; third"):
        scales.pin(c, "third")


def test_a_free_stream_has_the_middle_of_its_range_at_one():
    scales, (a, b, c) = Scales(), [object() for _ in range(3)]
    for x, y, difference in ((a, b, -3.0), (b, c, 1.0)):
        scales.mark(x)
        scales.mark(y)
        scales.tie(x, y, difference)
    assert [scales[node] for node in (a, b, c)] == [1.5, -1.5, -0.5]
    assert scales.excess(c, -1.0, most=3.0) == 0
    assert scales.excess(c, -3.0, most=4.0) == -3.5


def test_a_pinned_stream_has_one_in_its_range():
    scales, (a, b) = Scales(), [object() for _ in range(2)]
    scales.pin(a, "pinned")
    scales.tie(a, b, 10.0)
    scales.mark(b)
    assert scales[b] == 10
    assert scales.excess(b, 1.0, most=5.0) == 11 - 5  # back to the middle of 0 and 10


def test_vectors():
    scales, (a, b) = Scales(), [object() for _ in range(2)]
    scales.pin(a, "pinned")
    scales.tie(a, b, np.array([1.0, 2.0]))
    assert np.array_equal(scales[b], [1.0, 2.0])
    scales.tie(b, a, np.array([-1.0, -2.0]))
    with pytest.raises(ValueError, match="absorb"):
        scales.tie(a, b, 1.0)
