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
    kernels = [to_numpy(k.kernel).astype("float64") for k in (layer.query, layer.key, layer.value)]
    query, key, value = (np.einsum("btd,dhk->bthk", x, kernel) for kernel in kernels)
    if layer.rope_max_wavelength is not None:
        query, key = rotated(query, layer.rope_max_wavelength), rotated(key, layer.rope_max_wavelength)
    outputs = np.zeros_like(query)
    for batch, time, head in np.ndindex(*query.shape[:3]):
        group = head * key.shape[2] // query.shape[2]
        scores = key[batch, : time + 1, group] @ query[batch, time, head] / np.sqrt(query.shape[-1])
        if attention_mask is not None:
            scores[~attention_mask[batch, : time + 1]] = -np.inf
        weights = np.exp(scores - scores.max())
        outputs[batch, time, head] = weights / weights.sum() @ value[batch, : time + 1, group]
    return np.einsum("bthk,hkd->btd", outputs, to_numpy(layer.attention_output.kernel))


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


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_cache_that_is_filled_and_continued_gives_the_same(setting):
    layer, x = random_layer(setting)
    expected = to_numpy(layer(x))
    cache = tuple(ops.zeros(layer.cache_shape(2, 4)) for _ in range(2))
    filled, _ = layer(x, cache=cache, cache_index=0)
    assert_close(to_numpy(filled), expected)
    for time in range(4):
        seen = ops.convert_to_tensor((np.arange(4) <= time)[None, None, None])
        y, cache = layer(x[:, time : time + 1], attention_mask=seen, cache=cache, cache_index=time)
        assert_close(to_numpy(y), expected[:, time : time + 1])


@pytest.mark.parametrize(("setting", "count"), [("heads", 256), ("grouped", 192), ("head_dim", 384)])
def test_weights_are_2_dim_head_dim_times_the_heads(setting, count):
    layer, _ = random_layer(setting)
    assert layer.count_params() == count


def test_config_names_every_argument():
    layer = CausalAttention(4, 2, 6, None, "he_normal", "zeros", name="mixer")
    config = layer.get_config()
    copy = CausalAttention.from_config(config)
    assert copy.get_config() == config
    assert {key: config[key] for key in ("num_heads", "num_key_value_heads", "head_dim", "rope_max_wavelength")} == {
        "num_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "rope_max_wavelength": None,
    }
    assert isinstance(copy.output_initializer, keras.initializers.Zeros)
    assert isinstance(copy.kernel_initializer, keras.initializers.HeNormal)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"num_heads": 4, "num_key_value_heads": 3},
            "divide `num_heads`. Received: num_heads=4, num_key_value_heads=3",
        ),
        ({"num_heads": 3}, "divide the number of channels. Received: num_heads=3"),
        ({"num_heads": 8}, "even width of a head with rotary positions. Received: head_dim=1"),
    ],
)
def test_error_names_what_was_expected_and_received(arguments, message):
    with pytest.raises(ValueError, match=message):
        CausalAttention(**arguments).build(SHAPE)
