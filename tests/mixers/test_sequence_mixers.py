"""The sequence mixers beside attention, against float64 NumPy that goes through the positions one by one."""

import keras
import numpy as np
import pytest
from hyena_references import hyena, hyena_experts, multi_head_hyena
from keras import ops
from variants import FLOAT32_TOLERANCE, assert_close, randomize, to_numpy

from keras_laurel.mixers import (
    CausalConv,
    GatedLinearAttention,
    Hyena,
    HyenaExperts,
    ImplicitFilter,
    LinearAttention,
    Mamba,
    MultiHeadHyena,
)
from keras_laurel.mixers.linear_attention import LEAST_LOG_DECAY, causal_linear_attention
from keras_laurel.mixers.long_convolution import long_convolution
from keras_laurel.mixers.selective_scan import selective_scan

SHAPE = (2, 5, 8)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.log1p(np.exp(x))


def heads(x, kernel):
    return np.einsum("btd,dhk->bhtk", x, kernel)


def linear_attention_states(query, key, value, log_decay):
    """Yields each position, the state after it decayed and added, and what is read of it."""
    y = np.zeros((*query.shape[:3], value.shape[-1]))
    state = np.zeros((*query.shape[:2], query.shape[-1], value.shape[-1]))
    for t in range(query.shape[2]):
        state = np.exp(log_decay[:, :, t, :, None]) * state + key[:, :, t, :, None] * value[:, :, t, None, :]
        y[:, :, t] = np.einsum("bhk,bhkv->bhv", query[:, :, t], state)
    return y


def selective_scan_states(x, delta, log_decay, write, read):
    y, state = np.zeros_like(x), np.zeros((x.shape[0], *log_decay.shape))
    for t in range(x.shape[1]):
        taken = (delta * x)[:, t, :, None] * write[:, t, None, :]
        state = np.exp(delta[:, t, :, None] * log_decay) * state + taken
        y[:, t] = np.sum(read[:, t, None, :] * state, axis=-1)
    return y


def convolved(x, kernel, bias):
    y = np.zeros_like(x) + bias
    for t, tap in np.ndindex(x.shape[1], len(kernel)):
        if t - tap >= 0:
            y[:, t] += kernel[-1 - tap] * x[:, t - tap]
    return y


def linear_attention(layer, w, x):
    query, key, value = (heads(x, w[name]) for name in ("query", "key", "value"))
    if layer.feature_map == "hadamard":

        def features(x, name):
            return np.prod([x @ w[f"{name}_features_{i}"] + w[f"{name}_features_{i}/bias"] for i in (0, 1)], axis=0)

        query, key = features(query, "query"), features(key, "key")
    else:
        query, key = (np.where(x > 0, x + 1, np.exp(x)) for x in (query, key))
    still = np.zeros_like(key)
    numerator = linear_attention_states(query, key, value, still)
    denominator = linear_attention_states(query, key, np.ones_like(value[..., :1]), still)
    return np.einsum("bhtk,hkd->btd", numerator / (denominator + layer.epsilon), w["attention_output"])


def gated_linear_attention(layer, w, x):
    query, key, value, gate = (heads(x, w[name]) for name in ("query", "key", "value", "output_gate"))
    logits = heads(x @ w["gate_down"], w["gate_up"]) + w["gate_up/bias"]
    log_decay = np.log(sigmoid(logits)) / layer.gate_divisor
    y = linear_attention_states(query / np.sqrt(query.shape[-1]), key, value, log_decay)
    y = w["norm/scale"] * y / np.sqrt(np.mean(y**2, axis=-1, keepdims=True) + layer.norm_epsilon)
    return np.einsum("bhtk,hkd->btd", y * silu(gate), w["attention_output"])


def mamba(layer, w, x):
    u = silu(convolved(x @ w["up"], w["conv"], w["conv/bias"]))
    rank = w["delta"].shape[0]
    step, write, read = np.split(u @ w["selection"], [rank, rank + layer.num_states], axis=-1)
    step = softplus(step @ w["delta"] + w["delta_bias"])
    y = selective_scan_states(u, step, -np.exp(w["log_rate"]), write, read) + w["skip"] * u
    return (y * silu(x @ w["gate"])) @ w["output"]


LAYERS = {
    "linear_hadamard": (LinearAttention, {"num_heads": 2}, linear_attention),
    "linear_elu": (LinearAttention, {"num_heads": 2, "head_dim": 3, "feature_map": "elu"}, linear_attention),
    "gated": (GatedLinearAttention, {"num_heads": 2, "gate_rank": 3}, gated_linear_attention),
    "gated_divisor": (
        GatedLinearAttention,
        {"num_heads": 1, "head_dim": 3, "gate_rank": 1, "gate_divisor": 2.0, "norm_epsilon": 0.5},
        gated_linear_attention,
    ),
    "mamba": (Mamba, {"num_states": 3}, mamba),
    "mamba_associative": (
        Mamba,
        {"num_states": 2, "expansion": 1, "num_taps": 2, "delta_rank": 2, "method": "associative"},
        mamba,
    ),
    "hyena": (Hyena, {"filter_length": 7, "filter_order": 3}, hyena),
    "hyena_tiled": (
        Hyena,
        {"filter_length": 5, "expansion": 2, "num_taps": 2, "projection_tiles": 2},
        hyena,
    ),
    "multi_head_hyena": (MultiHeadHyena, {"num_heads": 2, "filter_length": 7}, multi_head_hyena),
    "multi_head_hyena_tiled": (
        MultiHeadHyena,
        # Heads so narrow that Fourier transforms are taken.
        {"num_heads": 8, "filter_length": 5, "filter_order": 3, "num_taps": 2, "projection_tiles": 4},
        multi_head_hyena,
    ),
    "hyena_experts": (
        HyenaExperts,
        {"num_experts": 3, "expert_dim": 4, "filter_length": 7, "filter_order": 3},
        hyena_experts,
    ),
    "hyena_experts_leaky": (
        HyenaExperts,
        {"num_experts": 4, "expert_dim": 2, "filter_length": 5, "num_active": 1, "routing": "leaky", "num_taps": 2},
        hyena_experts,
    ),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def weights_of(layer):
    """Returns the weights in float64: kernels by the name of their sublayer, others by the rest of their path too."""
    paths = {w.path.removeprefix(layer.path + "/").removesuffix("/kernel"): w for w in layer.trainable_weights}
    return {path: to_numpy(w).astype("float64") for path, w in paths.items()}


def random_layer(name, **kwargs):
    layer_class, arguments, _ = LAYERS[name]
    layer = layer_class(**arguments, **kwargs)
    layer.build(SHAPE)
    randomize(layer)
    if "hyena" in name:
        # Kernels as large as trained ones are: sines of large numbers, three deep, multiply what float32 has rounded.
        for kernel in layer.filter.kernels:
            kernel.assign(kernel / kernel.shape[0])
    if name == "linear_hadamard":
        for features in layer.features:
            # Features far from zero, as a denominator near zero would leave no digits to compare.
            features.kernel.assign(features.kernel / 8)
            features.bias.assign(np.full(features.bias.shape, 2.0))
    return layer


def random_input():
    return np.random.default_rng(0).normal(size=SHAPE).astype("float32")


@every_layer
def test_it_equals_its_formula(name):
    layer, x = random_layer(name), random_input()
    assert_close(to_numpy(layer(x)), LAYERS[name][2](layer, weights_of(layer), x.astype("float64")))


def test_multi_head_hyenas_transforms_of_a_long_input_equal_its_scores_of_a_short_one():
    layer, x = MultiHeadHyena(num_heads=4, filter_length=17), np.random.default_rng(0).normal(size=(2, 17, 8))
    layer.build(x.shape)
    y = to_numpy(layer(x.astype("float32")))
    assert_close(y, multi_head_hyena(layer, weights_of(layer), x))
    assert_close(to_numpy(layer(x[:, :16].astype("float32"))), y[:, :16])


@pytest.mark.parametrize(("name", "num_kept"), [*((name, 2) for name in LAYERS), ("mamba", 0)])
def test_a_cache_that_has_taken_up_a_part_and_is_continued_gives_the_same(name, num_kept):
    layer, x = random_layer(name), random_input()
    expected = to_numpy(layer(x))
    whole, cache = layer(x, cache=layer.empty_cache(2, 5), cache_index=0, num_kept=num_kept)
    assert_close(to_numpy(whole), expected)
    for first, last in ((num_kept, 3), (3, 5)):
        seen = ops.ones((1, 1, last - first, 5), "bool")  # which a mixer without scores does not look at
        y, cache = layer(x[:, first:last], attention_mask=seen, cache=cache, cache_index=first)
        assert_close(to_numpy(y), expected[:, first:last])


@pytest.mark.parametrize("name", ["linear_hadamard", "linear_elu", "gated", "gated_divisor", "mamba"])
@pytest.mark.parametrize("capacity", [1, 100])
def test_a_recurrences_cache_is_its_state(name, capacity):
    layer = random_layer(name)
    assert sum(np.prod(kept.shape) for kept in layer.empty_cache(1, capacity)) == layer.state_size(capacity)


@pytest.mark.parametrize("decays", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 8])
def test_chunks_make_no_difference(chunk_size, decays):
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(1, 2, 5, width)).astype("float32") for width in (2, 2, 3))
    log_decay = -rng.uniform(0, 2, size=key.shape).astype("float32") * decays
    expected = linear_attention_states(*(x.astype("float64") for x in (query, key, value, log_decay)))
    tensors = [ops.convert_to_tensor(x) for x in (query, key, value, log_decay)]
    actual = causal_linear_attention(*tensors[: 3 + decays], chunk_size=chunk_size)
    assert_close(to_numpy(actual), expected)


@pytest.mark.parametrize("log_decay", [LEAST_LOG_DECAY, -1e4])
def test_the_strongest_decay_overflows_nowhere(log_decay):
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(1, 1, 70, 1)).astype("float32") for _ in range(3))
    expected = linear_attention_states(
        *(x.astype("float64") for x in (query, key, value)), np.full_like(key, LEAST_LOG_DECAY, "float64")
    )
    tensors = [ops.convert_to_tensor(x) for x in (query, key, value, np.full_like(key, log_decay))]
    # Of exponents up to 80, float32 keeps 80 of its last digits less.
    assert_close(to_numpy(causal_linear_attention(*tensors)), expected, tolerance=80 * 2**-24)


@pytest.mark.parametrize("method", [None, "loop", "associative"])
def test_selective_scan_equals_the_recurrence(method):
    rng = np.random.default_rng(0)
    x, write, read = (rng.normal(size=(2, 5, width)).astype("float32") for width in (3, 2, 2))
    delta, log_decay = (rng.uniform(size=shape).astype("float32") for shape in (x.shape, (3, 2)))
    arrays = (x, delta, -log_decay, write, read)
    expected = selective_scan_states(*(a.astype("float64") for a in arrays))
    assert_close(to_numpy(selective_scan(*(ops.convert_to_tensor(a) for a in arrays), method=method)), expected)


@every_layer
@pytest.mark.parametrize("time", range(1, SHAPE[1]))
def test_a_position_does_not_see_those_after_it(name, time):
    layer, x = random_layer(name), random_input()
    y = to_numpy(layer(x))
    x[:, time] += 1
    changed = to_numpy(layer(x)) - y
    # A Fourier transform rounds by the largest of all positions.
    largest = max(1, np.abs(y).max(), np.abs(changed).max()) if "hyena" in name else 1
    assert np.all(np.abs(changed[:, :time]) <= FLOAT32_TOLERANCE * largest)
    assert np.all(np.abs(changed[:, time]).max(axis=-1) > 1e-3)


@every_layer
@pytest.mark.parametrize("shape", [(2, 5), (2, 1, 1, 5)])
def test_padding_before_a_sequence_changes_nothing(name, shape):
    layer, x = random_layer(name), random_input()
    kept = np.broadcast_to(np.arange(5) >= 2, (2, 5)).reshape(shape)
    y = layer(x, attention_mask=ops.convert_to_tensor(kept))
    assert_close(to_numpy(y)[:, 2:], to_numpy(layer(x[:, 2:])))


def test_a_mask_of_more_than_padding_is_refused():
    with pytest.raises(ValueError, match=r"mask` of padding.*Received: shape \(2, 1, 5, 5\)"):
        random_layer("gated")(random_input(), attention_mask=ops.ones((2, 1, 5, 5), "bool"))


@every_layer
def test_any_length_goes_through_one_model(name):
    layer, x = random_layer(name), random_input()
    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, layer(inputs))
    for length in (1, 5):
        assert_close(model.predict(x[:, :length], verbose=0), to_numpy(layer(x))[:, :length])


@every_layer
def test_every_weight_gets_a_gradient(name):
    layer = random_layer(name)
    inputs = keras.Input(SHAPE[1:])
    model = keras.Model(inputs, layer(inputs))
    model.compile("sgd", "mse")
    before = weights_of(layer)
    model.fit(random_input(), np.zeros(SHAPE, "float32"), verbose=0)
    for path, after in weights_of(layer).items():
        assert np.all(np.isfinite(after)), path
        assert np.any(after != before[path]), path


def test_gradients_are_finite_when_a_gate_is_shut():
    layer = GatedLinearAttention(2, gate_rank=1)
    inputs = keras.Input((40, 8))
    model = keras.Model(inputs, layer(inputs))
    layer.gate_up.bias.assign(np.full(layer.gate_up.bias.shape, -1e3))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(1, 40, 8)).astype("float32")
    model.fit(x, x, verbose=0)
    assert all(np.all(np.isfinite(w)) for w in weights_of(layer).values())


@every_layer
def test_half_precision_keeps_the_state_in_float32(name):
    exact, half = random_layer(name), random_layer(name, dtype="mixed_bfloat16")
    y = half(random_input())
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    expected = to_numpy(exact(random_input()))
    assert np.mean(np.abs(to_numpy(y) - expected)) < 0.05 * np.mean(np.abs(expected))


@every_layer
def test_config_names_every_argument(name):
    layer_class, arguments, _ = LAYERS[name]
    layer = layer_class(**arguments, kernel_initializer="he_normal", output_initializer="zeros", name="mixer")
    copy = layer_class.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert all(getattr(copy, key) == value for key, value in arguments.items())
    assert isinstance(copy.kernel_initializer, keras.initializers.HeNormal)
    assert isinstance(copy.output_initializer, keras.initializers.Zeros)


@pytest.mark.slow_on("jax")
@pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method implemented")
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, None) for name in LAYERS),
        *((name, "int8") for name in ("linear_elu", "gated", "mamba", "multi_head_hyena_tiled")),
    ],
)
def test_a_saved_layer_reloads(tmp_path, name, mode):
    inputs = keras.Input(SHAPE[1:])
    model = keras.Model(inputs, random_layer(name)(inputs))
    if mode:
        model.quantize(mode)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(to_numpy(loaded(random_input())), to_numpy(model(random_input())))


@pytest.mark.parametrize(
    ("layer", "weights", "state"),
    [
        (LinearAttention(16), 65_824, 16 * 8 * 8 + 16 * 8),
        (LinearAttention(1), 131_584, 128 * 128 + 128),
        (GatedLinearAttention(8), 86_160, 8 * 16 * 16),
        (Mamba(4), 107_264, 256 * 4 + 256 * 3),
        # Those of the benchmark's code, and multi-head Hyena of its paper.
        (Hyena(128, expansion=4, projection_tiles=4), 124_348, 512 * 4 + 3 * 512 * 2),
        (MultiHeadHyena(8, 128, projection_tiles=4), 30_862, 8 * 16 * 16 * 2 + 3 * 128 * 2),
        (MultiHeadHyena(16, 128), 68_038, 16 * 8 * 8 * 2 + 3 * 128 * 2),
        (HyenaExperts(8, 16, 128, routing="leaky"), 57_464, 128 * 16 + 3 * 128 * 2),
    ],
)
def test_weights_and_state_at_the_width_of_mad(layer, weights, state):
    layer = layer.__class__.from_config(layer.get_config())
    layer.build((None, None, 128))
    assert layer.count_params() == weights
    assert layer.state_size(10) == layer.state_size(1000) == state


@pytest.mark.parametrize(
    ("layer", "flops"),
    [
        # Of 4 positions of 8 channels. Projections, features, state, and its sum.
        (LinearAttention(2), 4 * (8 * 8 * 8 + 8 * 8 * 4 + 4 * 8 * 4 + 4 * 8)),
        (LinearAttention(2, head_dim=3, feature_map="elu"), 4 * (8 * 8 * 6 + 4 * 6 * 3 + 4 * 6)),
        # Five projections, the gate's two, state.
        (GatedLinearAttention(2, gate_rank=3), 4 * (10 * 8 * 8 + 2 * 3 * 16 + 6 * 8 * 4)),
        # Up, gate and output; selection and step; four taps; scan.
        (Mamba(3), 4 * (6 * 16 * 8 + 2 * 16 * (1 + 6) + 2 * 16 + 2 * 4 * 16 + 6 * 16 * 3)),
        # Projection and three taps of 24 channels; transforms of 8 with 10 log2(4) each, gates; output.
        (Hyena(5), 4 * (2 * 8 * 24 + 2 * 3 * 24 + (20 + 4) * 8 + 2 * 8 * 8)),
        (Hyena(5, expansion=2, projection_tiles=2), 4 * (2 * 8 * 24 + 2 * 3 * 48 + (20 + 4) * 16 + 2 * 16 * 8)),
        (MultiHeadHyena(2, 5), 4 * (2 * 8 * 24 + 2 * 3 * 24 + (20 + 4) * 8 * 4 + 2 * 8 * 8)),
        # Transforms of 6, the router, the weights, and the output of width 2.
        (HyenaExperts(3, 2, 5), 4 * (2 * 8 * 18 + 2 * 3 * 18 + (20 + 4) * 6 + 2 * 8 * 3 + 2 * 6 + 2 * 2 * 8)),
    ],
)
def test_operations_worked_by_hand(layer, flops):
    layer = layer.__class__.from_config(layer.get_config())
    layer.build((None, None, 8))
    assert layer.flops(4) == flops


def test_a_filter_starts_as_its_authors_had_it_and_makes_itself_from_its_position():
    layer = ImplicitFilter(channels=2, length=3, order=2)
    angles = 1e-4 * 2 * np.pi * np.arange(3) / 3
    assert_close(to_numpy(layer.features), np.stack([[0, 0.5, 1], np.cos(angles), -np.sin(angles)], axis=1))
    assert np.all(to_numpy(layer.frequency) == 1)
    assert layer.flops() == 2 * 3 * (3 * 2 + 2 * 4 + 2 * 2)
    assert layer.count_params() == 3 * 3 + 4 * 2 + 2 * 6 + 2 + 2 * 2
    copy = ImplicitFilter.from_config(layer.get_config())
    assert (copy.channels, copy.length, copy.order) == (2, 3, 2)


@pytest.mark.parametrize("length", [1, 3, 8])
def test_long_convolution_equals_its_sum(length):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 3, length)), rng.normal(size=(3, 8))
    expected = np.array([[np.convolve(row, taps)[:length] for row, taps in zip(rows, kernel)] for rows in x])
    tensors = [ops.convert_to_tensor(array.astype("float32")) for array in (x, kernel)]
    assert_close(to_numpy(long_convolution(*tensors)), expected)


def test_mamba_starts_as_in_the_paper():
    layer = Mamba(num_states=3)
    layer.build((None, None, 32))
    weights = weights_of(layer)
    steps = softplus(weights["delta_bias"])
    assert 1e-3 <= steps.min() < 5e-3 < 2e-2 < steps.max() <= 1e-1
    assert_close(np.exp(weights["log_rate"]), np.tile([1.0, 2.0, 3.0], (64, 1)))
    assert np.all(weights["skip"] == 1)
    assert 0.6 < np.abs(weights["delta"]).max() <= 2**-0.5
    assert 0.4 < np.abs(weights["conv"]).max() <= 0.5


def test_gated_linear_attention_starts_as_its_authors_had_it():
    layer = GatedLinearAttention(2)
    layer.build((None, None, 32))
    bound = np.sqrt(6 / 64) * 2**-2.5
    assert 0.9 * bound < np.abs(weights_of(layer)["attention_output"]).max() <= bound
    assert np.all(weights_of(layer)["gate_up/bias"] == 0)


def test_convolution_equals_its_sum():
    layer, x = CausalConv(3), random_input()
    layer.build(SHAPE)
    randomize(layer)
    weights = weights_of(layer)
    copy = CausalConv.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert_close(to_numpy(layer(x)), convolved(x.astype("float64"), weights["kernel"], weights["bias"]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CausalConv(0), "positive integer. Received: num_taps=0"),
        (lambda: LinearAttention(2, feature_map="exp"), "'hadamard' or 'elu'. Received: feature_map='exp'"),
        (lambda: LinearAttention(3).build(SHAPE), "divide the number of channels. Received: num_heads=3"),
        (lambda: GatedLinearAttention(3).build(SHAPE), "divide the number of channels. Received: num_heads=3"),
        (lambda: Hyena(4)(random_input()), r"at most `filter_length` .* filter_length=4, shape=\(2, 5, 8\)"),
        (lambda: Hyena(9, projection_tiles=5)(random_input()), "divide the 24 channels. Received: tiles=5"),
        (lambda: MultiHeadHyena(3, 9).build(SHAPE), "divide the number of channels. Received: num_heads=3"),
        (lambda: HyenaExperts(2, 4, 9, num_active=3), "from 1 to `num_experts`. Received: num_active=3, num_experts=2"),
        (lambda: HyenaExperts(2, 4, 9, routing="hard"), "'top_k' or 'leaky'. Received: routing='hard'"),
        (lambda: ImplicitFilter(2, 1), "above 1. Received: length=1"),
        (lambda: Mamba(method="cuda")(random_input()), "one of .* Received: method='cuda'"),
    ],
)
def test_error_names_what_was_expected_and_received(make, message):
    with pytest.raises(ValueError, match=message):
        make()
