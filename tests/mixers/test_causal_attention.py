import keras
import numpy as np
import pytest
from keras import ops
from variants import assert_close, randomize, to_numpy

from keras_laurel.mixers import CausalAttention

SHAPE = (2, 4, 8)
SETTINGS = {
    "heads": {"num_heads": 2},
    "grouped": {"num_heads": 4, "num_key_value_heads": 2},
    "one_key_value_head": {"num_heads": 2, "num_key_value_heads": 1},
    "no_positions": {"num_heads": 2, "rope_max_wavelength": None},
    "head_dim": {"num_heads": 2, "head_dim": 6, "rope_max_wavelength": 100.0},
    "window": {"num_heads": 4, "num_key_value_heads": 2, "window": 2},
    "bias": {"num_heads": 4, "num_key_value_heads": 2, "use_bias": True},
}


def rotated(x, wavelength):
    """Rotates each pair of features `(i, i + half)` of `(batch, length, heads, width)` by its position's angle."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] / wavelength ** (np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def reference(layer, x, attention_mask=None):
    """Attention in float64 NumPy, a query and a head at a time."""

    def project(layer, x, equation):
        y = np.einsum(equation, x, to_numpy(layer.kernel).astype("float64"))
        return y if layer.bias is None else y + to_numpy(layer.bias)

    query, key, value = (project(p, x, "btd,dhk->bthk") for p in (layer.query, layer.key, layer.value))
    if layer.rope_max_wavelength is not None:
        query, key = rotated(query, layer.rope_max_wavelength), rotated(key, layer.rope_max_wavelength)
    outputs = np.zeros_like(query)
    for batch, time, head in np.ndindex(*query.shape[:3]):
        group = head * key.shape[2] // query.shape[2]
        seen = slice(0 if layer.window is None else max(0, time + 1 - layer.window), time + 1)
        scores = key[batch, seen, group] @ query[batch, time, head] / np.sqrt(query.shape[-1])
        if attention_mask is not None:
            scores[~attention_mask[batch, seen]] = -np.inf
        weights = np.exp(scores - scores.max())
        outputs[batch, time, head] = weights / weights.sum() @ value[batch, seen, group]
    return project(layer.attention_output, outputs, "bthk,hkd->btd")


def random_layer(setting):
    layer = CausalAttention(**SETTINGS[setting])
    layer.build(SHAPE)
    randomize(layer)
    return layer, np.random.default_rng(0).normal(size=SHAPE).astype("float32")


@pytest.mark.parametrize("setting", SETTINGS)
def test_it_equals_the_reference(setting):
    layer, x = random_layer(setting)
    assert_close(to_numpy(layer(x)), reference(layer, x.astype("float64")))


def test_a_mask_is_joined_with_the_causal_one():
    layer, x = random_layer("grouped")
    mask = np.array([[True, False, True, True], [True, True, True, False]])
    expected = reference(layer, x.astype("float64"), mask)
    assert_close(to_numpy(layer(x, attention_mask=ops.convert_to_tensor(mask[:, None, None]))), expected)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of cuDNN's attention under JAX")
def test_a_mask_has_a_row_for_each_query_as_cudnn_wants_it(monkeypatch):
    layer, x = random_layer("grouped")
    shapes = []

    def attention(query, key, value, mask, **kwargs):
        shapes.append(mask.shape)
        return query

    monkeypatch.setattr(ops, "dot_product_attention", attention)
    layer(x, attention_mask=ops.ones((2, 1, 1, 4), "bool"))
    assert shapes == [(2, 1, 4, 4)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_cache_that_is_filled_and_continued_gives_the_same(setting):
    layer, x = random_layer(setting)
    expected = to_numpy(layer(x))
    cache = layer.empty_cache(2, 4)
    filled, _ = layer(x, cache=cache, cache_index=0)
    assert_close(to_numpy(filled), expected)
    for time in range(4):
        seen = ops.convert_to_tensor((np.arange(4) <= time)[None, None, None])
        y, cache = layer(x[:, time : time + 1], attention_mask=seen, cache=cache, cache_index=time)
        assert_close(to_numpy(y), expected[:, time : time + 1])


@pytest.mark.parametrize(("setting", "count"), [("heads", 256), ("grouped", 192), ("head_dim", 384), ("bias", 216)])
def test_weights_are_2_dim_head_dim_times_the_heads(setting, count):
    layer, _ = random_layer(setting)
    assert layer.count_params() == count


@pytest.mark.parametrize(("window", "state"), [(None, 2 * 100 * 128), (33, 2 * 33 * 128)])
def test_weights_and_state_at_the_width_of_mad(window, state):
    layer = CausalAttention(16, window=window, use_bias=True)
    layer.build((None, None, 128))
    assert layer.count_params() == 66_048
    assert layer.state_size(100) == state


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_position_does_not_see_those_after_it(setting):
    layer, x = random_layer(setting)
    y = to_numpy(layer(x))
    x[:, 2] += 1
    changed = to_numpy(layer(x)) - y
    assert np.all(changed[:, :2] == 0)
    assert np.any(changed[:, 2] != 0)


def test_config_names_every_argument():
    layer = CausalAttention(4, 2, 6, None, "he_normal", "zeros", window=3, use_bias=True, name="mixer")
    config = layer.get_config()
    copy = CausalAttention.from_config(config)
    assert copy.get_config() == config
    expected = {
        "num_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "rope_max_wavelength": None,
        "window": 3,
        "use_bias": True,
    }
    assert {key: config[key] for key in expected} == expected
    assert isinstance(copy.output_initializer, keras.initializers.Zeros)
    assert isinstance(copy.kernel_initializer, keras.initializers.HeNormal)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"num_heads": 4, "num_key_value_heads": 3},
            "divide `num_heads`. Received: num_heads=4, num_key_value_heads=3",
        ),
        ({"num_heads": 2, "window": 0}, "positive integer or None. Received: window=0"),
        ({"num_heads": 3}, "divide the number of channels. Received: num_heads=3"),
        ({"num_heads": 8}, "even width of a head with rotary positions. Received: head_dim=1"),
    ],
)
def test_error_names_what_was_expected_and_received(arguments, message):
    with pytest.raises(ValueError, match=message):
        CausalAttention(**arguments).build(SHAPE)
