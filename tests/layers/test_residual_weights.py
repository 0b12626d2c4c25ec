"""Alpha and beta."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from variants import to_numpy

from keras_laurel.layers import ResidualWeights

logits = st.lists(st.floats(-60, 60, width=32), min_size=2, max_size=2)
scales = st.sampled_from([0.5, 1.0, 2.0, 3.0])
seldom = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def alpha_beta(form, scale, values, per_channel=False, dim=3):
    weights = ResidualWeights(form, scale, per_channel)
    weights.build((None, dim))
    if values is not None:
        weights.logits.assign(values)
    return [to_numpy(weight).tolist() for weight in weights.alpha_beta()]


@pytest.mark.parametrize("form", ["softmax", "single"])
@seldom
@given(values=logits, scale=scales)
def test_alpha_and_beta_sum_to_scale(form, values, scale):
    alpha, beta = alpha_beta(form, scale, values[:1] if form == "single" else values)
    assert abs(alpha + beta - scale) <= 4 * 2**-24 * scale  # each is rounded a few times


@pytest.mark.parametrize("form", ["softmax", "single", "sigmoid"])
@seldom
@given(values=logits, scale=scales)
def test_bounded_forms_stay_between_zero_and_scale(form, values, scale):
    for weight in alpha_beta(form, scale, values[:1] if form == "single" else values):
        assert 0 <= weight <= scale * (1 + 2**-23)


def test_sigmoid_weights_are_independent():
    before, after = alpha_beta("sigmoid", 2.0, [0.0, 0.0]), alpha_beta("sigmoid", 2.0, [5.0, 0.0])
    assert after[0] > before[0]
    assert after[1] == before[1]


@pytest.mark.parametrize("form", ["softmax", "single", "sigmoid"])
def test_a_larger_first_logit_means_more_branch(form):
    alpha, beta = alpha_beta(form, 2.0, [1.0] if form == "single" else [1.0, 0.0])
    assert alpha > 1 >= beta


def test_free_weights_are_unbounded():
    assert alpha_beta("free", 2.0, [-5.0, 7.0]) == [-5.0, 7.0]


@pytest.mark.parametrize("form", ["softmax", "single", "sigmoid", "free"])
@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0])
def test_weights_start_at_half_the_scale_exactly(form, scale):
    assert alpha_beta(form, scale, None) == [scale / 2, scale / 2]


@pytest.mark.parametrize("form", ["softmax", "single", "sigmoid", "free"])
def test_per_channel_weights_are_one_pair_for_each_channel(form):
    values = np.random.default_rng(0).normal(size=(1 if form == "single" else 2, 3)).astype("float32")
    vectors = alpha_beta(form, 2.0, values, per_channel=True)
    for channel in range(3):
        scalars = alpha_beta(form, 2.0, values[:, channel])
        assert [vector[channel] for vector in vectors] == pytest.approx(scalars, rel=4 * 2**-24)


@pytest.mark.parametrize(
    ("form", "per_channel", "count"),
    [("softmax", False, 2), ("single", False, 1), ("free", True, 6), ("single", True, 3)],
)
def test_number_of_weights(form, per_channel, count):
    weights = ResidualWeights(form, per_channel=per_channel)
    weights.build((None, 3))
    assert weights.count_params() == count


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "bfloat16", "float16"])
def test_weights_and_what_is_made_of_them_are_float32(policy):
    weights = ResidualWeights(dtype=policy)
    weights.build((None, 3))
    for tensor in (weights.logits, *weights.alpha_beta()):
        assert keras.backend.standardize_dtype(tensor.dtype) == "float32"
