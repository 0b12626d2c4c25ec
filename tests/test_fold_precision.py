"""fold where residual weights are at their bounds, or joins many: no worse than the model that it folds."""

import keras
import numpy as np
import pytest
from folding import VECTORS, assert_folds, dense, outputs_of, stack
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_laurel import LaurelRW, fold


def deep(num_joins):
    """Kernels are rotations, so that a rounding grows no further on; each model of a size is the same."""
    initializer = keras.initializers.Orthogonal(seed=1)

    def rotation(x):
        return layers.Dense(4, kernel_initializer=initializer, use_bias=False)(x)

    inputs = x = keras.Input((4,))
    x = layers.Dense(4, kernel_initializer=initializer)(x)
    for i in range(num_joins):
        x = LaurelRW("sigmoid", name=f"join_{i}")([x, rotation(layers.RMSNormalization()(x))])
    return keras.Model(inputs, layers.Dense(2, kernel_initializer=initializer)(layers.RMSNormalization()(x)))


DEEP = {}  # made once for all examples


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(logits=st.lists(st.floats(-60, 60), min_size=24, max_size=24))
def test_any_bounded_weights(logits):
    assert_folds(with_logits(logits), VECTORS)


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(logits=st.lists(st.floats(-60, 60), min_size=24, max_size=24))
def test_weights_near_their_bounds(logits):
    # Where states cancel or leave float32, the unfolded model is itself off, and the folded one is about as far.
    model = with_logits(logits)
    exact = in_float64(model, VECTORS)
    largest = max(np.max(np.abs(exact)), np.finfo("float32").tiny)
    unfolded, folded = (np.max(np.abs(outputs_of(m, VECTORS) - exact)) / largest for m in (model, fold(model)))
    assert folded <= max(1e-5, 4 * unfolded)


def with_logits(logits):
    model = DEEP.setdefault(12, deep(12))
    for i in range(12):
        model.get_layer(f"join_{i}").residual_weights.logits.assign(logits[2 * i : 2 * i + 2])
    return model


def in_float64(model, x):
    """Returns what a `deep` model computes, in float64."""
    first, *rotations, last = (layer for layer in model.layers if isinstance(layer, layers.Dense))
    norms = [layer for layer in model.layers if isinstance(layer, layers.RMSNormalization)]

    def wide(weight):
        return ops.convert_to_numpy(weight).astype("float64")

    def normalized(x, norm):
        return wide(norm.scale) * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + norm.epsilon)

    x = x.astype("float64") @ wide(first.kernel) + wide(first.bias)
    for i, (norm, rotation) in enumerate(zip(norms, rotations)):
        alpha, beta = 2 / (1 + np.exp(-wide(model.get_layer(f"join_{i}").residual_weights.logits)))
        x = alpha * (normalized(x, norm) @ wide(rotation.kernel)) + beta * x
    return normalized(x, norms[-1]) @ wide(last.kernel) + wide(last.bias)


@pytest.mark.slow_on("jax", "tensorflow")
@pytest.mark.parametrize(
    ("alpha", "beta"),
    [(10, -10), (0, -1), *[pytest.param(*pair, marks=pytest.mark.slow) for pair in ((-3, 0.5), (1, 1))]],
)
def test_a_hundred_joins(alpha, beta):
    model = DEEP.setdefault(100, deep(100))
    for i in range(100):
        model.get_layer(f"join_{i}").residual_weights.logits.assign([alpha, beta])
    folded = assert_folds(model, VECTORS)
    scales = [layer.scale for layer in folded.layers if isinstance(layer, layers.Rescaling)]
    assert all(np.log2(scale) % 1 == 0 for scale in scales)
    assert np.all([np.isfinite(ops.convert_to_numpy(weight)).all() for weight in folded.weights])


def test_a_rescaled_skip_with_previous_activations():
    model = stack(dense, 4, kind="rw+lr+pa", residual_weights="sigmoid")
    for i in range(4):
        model.get_layer(f"join_{i}").residual_weights.logits.assign([0.0, -25.0])
    folded = assert_folds(model, VECTORS)
    assert any(isinstance(layer, layers.Rescaling) for layer in folded.layers)
