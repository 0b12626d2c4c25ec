"""What the tests of `fold` share."""

import keras
import numpy as np
from keras import layers, ops

import keras_laurel
from keras_laurel import History, residual

VECTORS = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")


def randomize(model, seed=0):
    """Gives every weight a value that is not what it starts from, and batch normalization statistics of their own."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        name = weight.path.rsplit("/", 1)[-1]
        if name == "moving_variance":
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        elif name == "logits":
            weight.assign(rng.normal(size=weight.shape))
        elif name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            weight.assign(ops.convert_to_numpy(weight) * rng.uniform(0.5, 1.5, weight.shape) + rng.normal() * 0.01)
        elif "seed_generator" not in weight.path:
            weight.assign(ops.convert_to_numpy(weight) + 0.3 * rng.normal(size=weight.shape))
    return model


def outputs_of(model, *inputs):
    return ops.convert_to_numpy(ops.cast(model(*inputs), "float32"))


def assert_folds(model, x):
    """Asserts that the folded model has the outputs of `model` and none of its alphas and betas; returns it."""
    before = [ops.convert_to_numpy(weight) for weight in model.weights]
    expected = outputs_of(model, x)
    folded = keras_laurel.fold(model)
    error = np.max(np.abs(outputs_of(folded, x) - expected)) / np.max(np.abs(expected))
    assert error <= 1e-5, f"off by {error:.1e}, relative to the largest value"
    assert not [weight.path for weight in folded.weights if weight.path.endswith("logits")]
    assert all(np.array_equal(ops.convert_to_numpy(weight), value) for weight, value in zip(model.weights, before))
    return folded


def stack(branch, num_joins=3, before=(), after=(), shape=(4,), pre_norm=layers.RMSNormalization, **join):
    """A stack of joins around `branch()`, between layers that take any scale."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input(shape)
    for layer in (*before, layers.Dense(4, name="stem")):
        x = layer(x)
    history, join = History(), {"kind": "rw", "rank": 2, **join}
    for i in range(num_joins):
        x = history.join(residual(**join, name=f"join_{i}"), x, branch(pre_norm()(x) if pre_norm else x))
    for layer in (*after, layers.Dense(2, name="head")):
        x = layer(x)
    return randomize(keras.Model(inputs, x))


def dense(x):
    return layers.Dense(4)(layers.Dense(3, "gelu")(x))
