"""Low-rank factors are Dense layers, which `Model.quantize` knows."""

import keras
import numpy as np
import pytest
from variants import randomize, to_numpy

import keras_laurel


# Keras says so of every layer without weights to quantize, `InputLayer` first.
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method implemented:UserWarning")
def test_quantized_model_predicts_the_same_after_loading(tmp_path):
    inputs = x = keras.Input((8,))
    history = keras_laurel.History()
    joins = [keras_laurel.residual(word, rank=2) for word in ("lr", "rw+lr", "lr+pa", "rw+lr+pa")]
    for join in joins:
        x = history.join(join, x, keras.layers.Dense(8, "tanh")(x))
    model = keras.Model(inputs, keras.layers.LayerNormalization()(x))
    randomize(model)
    array = np.random.default_rng(0).normal(size=(2, 8)).astype("float32")
    before = to_numpy(model(array))
    model.quantize("int8")
    assert {join.augmentation.up.quantization_mode for join in joins[:2]} == {"int8"}
    assert {join.augmentation.low_rank.up.quantization_mode for join in joins[2:]} == {"int8"}
    quantized = to_numpy(model(array))
    assert not np.array_equal(quantized, before)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(to_numpy(loaded(array)), quantized)
