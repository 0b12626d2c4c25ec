"""The joins that LAuReL is compared with: what they compute at start and later, and that recipes take and load them."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from applications.errors import UserError
from applications.laurel_decoder_lm import configs, model
from applications.peers import PEERS, DenseFormer, HyperConnections, LayerScale, ReZero
from keras_laurel import History
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


def test_hyper_connections_equal_the_papers_equations_in_numpy():
    n, dim = 3, 4
    rng = np.random.default_rng(0)
    fx, *streams = rng.normal(size=(1 + n, 2, 5, dim)).astype("float32")
    join = HyperConnections(num_streams=n)
    join.build([fx.shape] * (2 + n))
    for weight in join.weights:
        weight.assign(rng.normal(size=weight.shape))
    y, *after = (ops.convert_to_numpy(output) for output in join([fx, fx, *streams]))
    own = {weight.name: ops.convert_to_numpy(weight).astype("float64") for weight in join.weights}

    def normalized(h):
        return h / np.sqrt(np.mean(h**2, axis=-1, keepdims=True))

    for place in np.ndindex(2, 5):
        h = np.stack([stream[place] for stream in streams]).astype("float64")  # (n, dim)
        changes = np.tanh(normalized(h) @ own["kernel"][:, :-1])
        a_r = own["mix"] + own["mix_scale"] * changes[:, :n]
        b = own["write"] + own["write_scale"] * changes[:, n]
        h = a_r.T @ h + np.outer(b, fx[place])
        np.testing.assert_allclose(np.stack([stream[place] for stream in after]), h, rtol=1e-4, atol=1e-5)
        a_m = own["read"] + own["read_scale"] * np.tanh(normalized(h) @ own["kernel"][:, -1])
        np.testing.assert_allclose(y[place], a_m @ h, rtol=1e-4, atol=1e-5)


def test_hyper_connections_start_as_the_plain_residual_with_one_stream_read():
    join = HyperConnections(num_streams=2)
    y, *streams = join([X, FX, X, X])
    assert [ops.convert_to_numpy(state)[0, 0].tolist() for state in (y, *streams)] == [[12.0, 12.0, 12.0]] * 3
    assert sorted(ops.convert_to_numpy(join.read).tolist()) == [0.0, 1.0]


def test_hyper_connections_hand_their_streams_on_in_a_history():
    history, first, second = History(), HyperConnections(num_streams=2), HyperConnections(num_streams=2)
    y = history.join(first, X, FX)
    assert ops.convert_to_numpy(y).tolist() == (X + FX).tolist()
    second.build([X.shape] * 4)
    for weight, value in ((second.write, [0.0, 1.0]), (second.read, [3.0, 5.0])):  # 3 * 12 + 5 * (12 + 10)
        weight.assign(value)
    assert ops.convert_to_numpy(history.join(second, y, FX))[0, 0].tolist() == [146.0, 146.0, 146.0]


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
    with pytest.raises(
        UserError, match=r"unknown residual 'near'; known: add, rw, .*rezero, layerscale, denseformer, hyperconnections"
    ):
        model.check(dataclasses.replace(configs.CONFIGS["smoke"], residual="near"))
