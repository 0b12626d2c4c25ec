"""The joins that LAuReL is compared with: what they compute at start and later, and that recipes take and load them."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from applications.errors import UserError
from applications.laurel_decoder_lm import configs, model
from applications.laurel_decoder_lm.peers import PEERS, DenseFormer, LayerScale, ReZero
from keras_laurel.applications.laurel_decoder.tokenizers import LaurelByteTokenizer

X, FX, OLDER = (np.full((1, 2, 3), value, "float32") for value in (2.0, 10.0, 100.0))


def value(join, *inputs):
    y = ops.convert_to_numpy(join(list(inputs)))
    assert y.shape == X.shape
    return y[0, 0].tolist()


def test_rezero_worked_by_hand():
    join = ReZero(rank=3, scale=2.0)
    assert value(join, X, FX) == [2.0, 2.0, 2.0]
    join.scale.assign(0.5)
    assert value(join, X, FX) == [7.0, 7.0, 7.0]


def test_layer_scale_worked_by_hand():
    join = LayerScale()
    assert value(join, X, FX) == [3.0, 3.0, 3.0]
    join.scale.assign([0.0, 1.0, -1.0])
    assert value(join, X, FX) == [2.0, 12.0, -8.0]


def test_denseformer_worked_by_hand():
    join = DenseFormer(num_activations=2)
    assert value(join, X, FX, OLDER) == [12.0, 12.0, 12.0]
    join.weights_of_states.assign([1.0, 0.5, 0.25])
    assert value(join, X, FX, OLDER) == [38.0, 38.0, 38.0]


@pytest.mark.parametrize("name", PEERS)
def test_a_language_model_with_a_peer_is_built_and_loaded_again(name, tmp_path):
    config = configs.CONFIGS["smoke"]
    config = dataclasses.replace(config, residual=name)
    lm = model.build(config, LaurelByteTokenizer())
    assert type(lm.backbone.transformer_layers[0].joins[0]) is PEERS[name]
    tokens = {"token_ids": np.array([[1, 2, 3]]), "padding_mask": np.ones((1, 3), "int32")}
    before = ops.convert_to_numpy(lm.backbone(tokens))
    lm.backbone.save(tmp_path / "backbone.keras")
    loaded = keras.models.load_model(tmp_path / "backbone.keras")
    np.testing.assert_allclose(ops.convert_to_numpy(loaded(tokens)), before, atol=1e-6)


def test_an_unknown_join_is_refused_with_those_that_there_are():
    with pytest.raises(UserError, match=r"unknown residual 'near'; known: add, rw, .*rezero, layerscale, denseformer"):
        model.check(dataclasses.replace(configs.CONFIGS["smoke"], residual="near"))
