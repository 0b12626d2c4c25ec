"""The table of variants, each of which must pass every check of the contract, and functions on its rows."""

import numpy as np
from keras import ops

import keras_laurel

VARIANTS = {
    "plain": {},
    "rw": {"residual_weights": "softmax"},
    "rw_sigmoid": {"residual_weights": "sigmoid"},
    "rw_single": {"residual_weights": "single"},
    "rw_free": {"residual_weights": "free"},
    "rw_per_channel": {"residual_weights": "softmax", "per_channel": True},
    "rw_single_per_channel": {"residual_weights": "single", "per_channel": True},
    "lr": {"rank": 2},
    "lr_column_orthogonal": {"rank": 2, "down_initializer": keras_laurel.initializers.ColumnOrthogonal()},
    "lr_norm": {"rank": 2, "norm": "rms"},
    "pa": {"num_activations": 3},
    "pa_first": {"num_activations": 1, "previous": "first"},
    "pa_norm": {"num_activations": 3, "norm": "rms", "norm_epsilon": 0.5},
    "rw+lr": {"residual_weights": "softmax", "rank": 3},
    "rw+pa": {"residual_weights": "sigmoid", "num_activations": 3},
    "rw+pa_first": {"residual_weights": "free", "num_activations": 1, "previous": "first"},
    "lr+pa": {"rank": 2, "num_activations": 3},
    "lr+pa_first": {"rank": 2, "num_activations": 1, "previous": "first"},
    "rw+lr+pa": {"residual_weights": "softmax", "rank": 1, "num_activations": 3},
    "rw+lr+pa_norm": {"residual_weights": "softmax", "rank": 2, "num_activations": 3, "norm": "rms"},
    "drop_path": {"residual_weights": "softmax", "drop_path": 0.1, "seed": 1},
    "axis_1_rw_per_channel": {"axis": 1, "residual_weights": "sigmoid", "per_channel": True},
    "axis_1_lr_norm": {"axis": 1, "rank": 2, "norm": "rms"},
    "axis_1_rw+lr+pa": {"axis": 1, "residual_weights": "softmax", "rank": 2, "num_activations": 3},
}

SPATIAL = (3, 2, 2)
DIM = 4

# Float32 rounds by 2**-24 of a value. No test has sums of more than 64 terms, all of order 1.
FLOAT32_TOLERANCE = 64 * 2**-24


def num_inputs(config):
    if config.get("previous") == "first":
        return 3
    return 1 + (config.get("num_activations") or 1)


def shape_of(config, ndim=3):
    shape = [2, *SPATIAL[: ndim - 2]]
    shape.insert(1 if config.get("axis") == 1 else len(shape), DIM)
    return tuple(shape)


def random_inputs(config, ndim=3, seed=0):
    shape = (num_inputs(config), *shape_of(config, ndim))
    return list(np.random.default_rng(seed).normal(size=shape).astype("float32"))


def random_join(config, ndim=3, seed=1, **kwargs):
    """Returns a built `Laurel` with random weights."""
    join = keras_laurel.Laurel(**config, **kwargs)
    join.build([shape_of(config, ndim)] * num_inputs(config))
    randomize(join, seed)
    return join


def randomize(layer, seed=1):
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))


def weight_name(weight):
    *_, parent, name = ("", *weight.path.split("/"))
    return parent if name == "kernel" else name


def weights_of(layer):
    """Returns the weights as `reference.laurel` wants them."""
    return {weight_name(weight): to_numpy(weight).astype("float64") for weight in layer.trainable_weights}


def to_numpy(tensor):
    """Returns a NumPy array, of float64 for the types that NumPy does not have."""
    if "float16" in str(tensor.dtype):
        tensor = ops.cast(tensor, "float32")
    return ops.convert_to_numpy(tensor)


def assert_close(actual, expected, tolerance=FLOAT32_TOLERANCE):
    """Asserts that no difference exceeds `tolerance`, relative to the largest value if that is above 1."""
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    error, bound = np.max(np.abs(actual - expected)), tolerance * max(1.0, np.max(np.abs(expected)))
    assert error <= bound, f"off by {error:.1e}, allowed are {bound:.1e}"
