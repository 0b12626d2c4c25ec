import keras
import numpy as np
import pytest
from scipy.special import erf
from variants import assert_close, randomize, to_numpy

from keras_laurel.mixers import MLP, CausalAttention, SwiGLU


def swiglu(x, weights):
    gate = x @ weights["gate"]
    return (gate / (1 + np.exp(-gate)) * (x @ weights["up"])) @ weights["output"]


def gelu(x, weights):
    inner = x @ weights["up"]
    return (inner * (1 + erf(inner / np.sqrt(2))) / 2) @ weights["output"]


@pytest.mark.parametrize(("layer", "reference", "count"), [(SwiGLU(6), swiglu, 72), (MLP(6), gelu, 48)])
def test_it_equals_the_formula_and_has_as_many_weights(layer, reference, count):
    layer = layer.__class__.from_config(layer.get_config())
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    layer.build(x.shape)
    randomize(layer)
    weights = {w.path.split("/")[-2]: to_numpy(w).astype("float64") for w in layer.weights}
    assert_close(to_numpy(layer(x)), reference(x.astype("float64"), weights))
    assert layer.count_params() == count


@pytest.mark.parametrize("layer", [SwiGLU(6, "he_normal", "zeros"), MLP(6, "relu", "he_normal", "zeros")])
def test_config_names_every_argument(layer):
    copy = layer.__class__.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    copy.build((None, 4))
    assert np.all(to_numpy(copy.output_dense.kernel) == 0)
    assert np.any(to_numpy(copy.up.kernel) != 0)
    if isinstance(copy, MLP):
        assert copy.activation is keras.activations.relu


@pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method implemented")
@pytest.mark.parametrize("layer", [SwiGLU(6), MLP(6), CausalAttention(2)])
def test_a_quantized_layer_reloads(tmp_path, layer):
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, layer.__class__.from_config(layer.get_config())(inputs))
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    assert np.array_equal(to_numpy(keras.models.load_model(tmp_path / "model.keras")(x)), to_numpy(model(x)))
