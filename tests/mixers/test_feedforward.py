import keras
import numpy as np
import pytest
from hyena_references import expert_weights
from scipy.special import erf
from variants import assert_close, randomize, to_numpy

from keras_laurel.mixers import MLP, CausalAttention, MixtureOfExperts, SwiGLU


def swiglu(x, weights):
    gate = x @ weights["gate"]
    return (gate / (1 + np.exp(-gate)) * (x @ weights["up"])) @ weights["output"]


def gelu(x, weights):
    inner = x @ weights["up"]
    return (inner * (1 + erf(inner / np.sqrt(2))) / 2) @ weights["output"]


def experts(x, weights, routing="top_k", mixed=False):
    gate = x @ weights["gate"]
    h = (x @ weights["up"]) * gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    scale = expert_weights(x @ weights["router"] + weights["router/bias"], 2, routing)
    if mixed:
        return np.sum((h @ weights["output"]).reshape(*x.shape, 3) * scale[..., None, :], axis=-1)
    parts = np.einsum("bte,btew,ewd->btd", scale, h.reshape(*x.shape[:2], 3, 2), weights["output"].reshape(3, 2, -1))
    return parts


def published_experts(x, weights):
    return experts(x, weights, "leaky", True)


@pytest.mark.parametrize(
    ("layer", "reference", "count"),
    [
        (SwiGLU(6), swiglu, 72),
        (MLP(6), gelu, 48),
        (MixtureOfExperts(3, 2), experts, 3 * 24 + 15),
        (MixtureOfExperts(3, 2, routing="leaky", mix_experts=True), published_experts, 2 * 24 + 6 * 12 + 15),
    ],
)
def test_it_equals_the_formula_and_has_as_many_weights(layer, reference, count):
    layer = layer.__class__.from_config(layer.get_config())
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    layer.build(x.shape)
    randomize(layer)
    paths = {w.path.removeprefix(layer.path + "/").removesuffix("/kernel"): w for w in layer.weights}
    weights = {path: to_numpy(weight).astype("float64") for path, weight in paths.items()}
    assert_close(to_numpy(layer(x)), reference(x.astype("float64"), weights))
    assert layer.count_params() == count


@pytest.mark.parametrize(
    ("layer", "flops"),
    [
        (SwiGLU(6), 5 * 2 * 3 * 4 * 6),
        (MLP(6), 5 * 2 * 2 * 4 * 6),
        (MixtureOfExperts(3, 2), 5 * 2 * (3 * 4 * 6 + 4 * 3)),
        (MixtureOfExperts(3, 2, mix_experts=True), 5 * 2 * (2 * 4 * 6 + 6 * 12 + 4 * 3)),
        # Two heads of two channels: four projections; scores, their softmax and the sums of values, of all or three.
        (CausalAttention(2), 5 * (2 * 4 * 16 + 5 * 2 * (4 * 2 + 2))),
        (CausalAttention(2, 1, window=3), 5 * (2 * (2 * 16 + 2 * 8) + 3 * 2 * (4 * 2 + 2))),
    ],
)
def test_operations_worked_by_hand(layer, flops):
    layer = layer.__class__.from_config(layer.get_config())
    layer.build((None, None, 4))
    assert layer.flops(5) == flops
    assert isinstance(layer, CausalAttention) or layer.state_size(5) == 0


def test_the_mixture_of_the_benchmark():
    layer = MixtureOfExperts(8, 16, routing="leaky", mix_experts=True)
    layer.build((None, None, 128))
    assert layer.count_params() == 165_000 - 8 * 16  # those that its code does not use


@pytest.mark.parametrize(
    "layer",
    [
        SwiGLU(6, "he_normal", "zeros"),
        MLP(6, "relu", "he_normal", "zeros"),
        MixtureOfExperts(3, 2, 1, "leaky", True, "he_normal", "zeros"),
    ],
)
def test_config_names_every_argument(layer):
    copy = layer.__class__.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    copy.build((None, 4))
    assert np.all(to_numpy(copy.output_dense.kernel) == 0)
    assert np.any(to_numpy(copy.up.kernel) != 0)
    if isinstance(copy, MLP):
        assert copy.activation is keras.activations.relu


@pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method implemented")
@pytest.mark.parametrize("layer", [SwiGLU(6), MLP(6), CausalAttention(2), MixtureOfExperts(3, 2)])
def test_a_quantized_layer_reloads(tmp_path, layer):
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, layer.__class__.from_config(layer.get_config())(inputs))
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    assert np.array_equal(to_numpy(keras.models.load_model(tmp_path / "model.keras")(x)), to_numpy(model(x)))
