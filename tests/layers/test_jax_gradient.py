"""What the gradient of a join under JAX keeps, and that it is right where the contract does not look."""

from unittest import mock

import keras
import numpy as np
import pytest
from variants import VARIANTS, assert_close, num_inputs, random_inputs, random_join, shape_of, to_numpy

if keras.backend.backend() != "jax":
    pytest.skip("the gradient is JAX's own", allow_module_level=True)

import jax
import jax.numpy as jnp

OWN = [name for name, config in VARIANTS.items() if config.get("residual_weights") != "free" and name != "plain"]


def gradients(join, inputs, cotangent, training):
    """Returns the gradients of the trainable weights and the inputs, and what is kept for them."""

    def y(weights, inputs):
        frozen = [weight.value for weight in join.non_trainable_variables]
        return join.stateless_call(weights, frozen, inputs, training=training)[0]

    _, pull = jax.vjp(y, [weight.value for weight in join.trainable_variables], inputs)
    return pull(cotangent), jax.tree.leaves(pull)


def in_half_precision(config):
    arrays = np.random.default_rng(0).normal(size=(num_inputs(config) + 1, 64, 16, 4)).astype("float32")
    *inputs, cotangent = (jnp.asarray(array, "bfloat16") for array in arrays)
    return inputs, cotangent


@pytest.mark.parametrize("name", ["rw", "rw_single_per_channel", "rw+lr", "rw+pa", "rw+lr+pa_norm", "axis_1_rw+lr+pa"])
def test_the_branch_is_not_kept(name):
    config = VARIANTS[name]
    inputs = [jnp.asarray(array) for array in random_inputs(config)]
    join = random_join(config)
    for training in (True, False):
        _, kept = gradients(join, inputs, jnp.ones(shape_of(config)), training)
        has_branch = any(leaf.shape == inputs[1].shape and np.array_equal(leaf, inputs[1]) for leaf in kept)
        assert has_branch is not training


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["rw_single_per_channel", "lr", "rw+lr+pa_norm"])
def test_float64_policy_trains(name):
    config = {**VARIANTS[name], "drop_path": 0.0}
    inputs = [jnp.asarray(array, "float64") for array in random_inputs(config)]
    cotangent = jnp.ones(shape_of(config), "float64")
    own, plain = (gradients(random_join(config, dtype="float64"), inputs, cotangent, way)[0] for way in (True, False))
    for ours, theirs in zip(jax.tree.leaves(own), jax.tree.leaves(plain)):
        assert ours.dtype == theirs.dtype
        assert_close(to_numpy(ours), to_numpy(theirs))


@pytest.mark.parametrize("name", OWN)
def test_half_precision_rounds_no_worse_than_plain_differentiation(name):
    config = {**VARIANTS[name], "axis": -1, "drop_path": 0.0}
    inputs, cotangent = in_half_precision(config)
    half, whole = (random_join(config, dtype=dtype) for dtype in ("mixed_bfloat16", "float32"))
    exact = gradients(whole, [jnp.asarray(x, "float32") for x in inputs], jnp.asarray(cotangent, "float32"), False)
    own, plain = (gradients(half, inputs, cotangent, training) for training in (True, False))
    leaves = [[to_numpy(leaf) for leaf in jax.tree.leaves(g[0])] for g in (own, plain, exact)]
    for ours, theirs, true in zip(*leaves):
        error, of_plain = (np.linalg.norm(value - true) / np.linalg.norm(true) for value in (ours, theirs))
        assert error <= max(of_plain, 2**-7)  # a bfloat16 number is off by up to 2**-8 of itself


@pytest.mark.parametrize(
    ("platform", "shape", "dtype", "expected"),
    [
        ("gpu", (2, 3, 4), "bfloat16", 1),
        ("gpu", (2, 3, 4), "float32", 0),
        ("gpu", (2, 3, 3, 4), "bfloat16", 0),
        ("tpu", (2, 3, 4), "bfloat16", 0),
    ],
)
def test_xla_for_gpus_keeps_the_rounding_of_a_sequence(platform, shape, dtype, expected, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [mock.Mock(platform=platform)])
    join = random_join({"residual_weights": "softmax"}, dtype="mixed_bfloat16" if dtype == "bfloat16" else dtype)
    weights = [weight.value for weight in join.trainable_variables]

    def y(inputs):
        return join.stateless_call(weights, [], inputs, training=True)[0]

    text = str(jax.make_jaxpr(y)([jnp.ones(shape, dtype)] * 2))
    assert text.count("optimization_barrier") == expected


def test_drop_path_weighs_the_gradient_of_what_it_keeps():
    join = random_join({"residual_weights": "softmax", "drop_path": 0.5, "seed": 3})
    inputs = [jnp.ones((8, 1, 4)), jnp.ones((8, 1, 4))]
    (_, (_, dfx)), _ = gradients(join, inputs, jnp.ones((8, 1, 4)), True)
    alpha = float(join.alpha_beta(3)[0])
    assert {round(float(value), 5) for value in np.unique(dfx)} == {0.0, round(2 * alpha, 5)}


def test_a_quantized_map_trains_by_plain_differentiation():
    join = random_join({"residual_weights": "softmax", "rank": 2})
    for layer in (*join.augmentation.downs, join.augmentation.up):
        layer.quantize("int8")
    inputs = [jnp.ones((2, 3, 4)), jnp.ones((2, 3, 4))]
    own, plain = (gradients(join, inputs, jnp.ones((2, 3, 4)), training)[0] for training in (True, False))
    assert jax.tree.all(jax.tree.map(np.array_equal, own, plain))
