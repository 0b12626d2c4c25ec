"""The models of the benchmark: counts of weights, what they see, and what joins leave as it was."""

import keras
import numpy as np
import pytest
from variants import to_numpy

from applications.errors import UserError
from benchmarks.mad import accounting
from benchmarks.mad.architectures import ARCHITECTURES, make_mixer, mixers_of
from benchmarks.mad.models import build, positions
from benchmarks.mad.tasks import Compression, InContextRecall
from keras_laurel.applications import LaurelDecoderBackbone
from keras_laurel.applications.laurel_decoder.mixers import FEEDFORWARDS
from keras_laurel.initializers import ColumnOrthogonal

RECALL = InContextRecall(vocab_size=8, seq_len=8)
COMPRESSION = Compression(vocab_size=4, seq_len=5)


def tokens(task, count=2):
    return np.random.default_rng(0).integers(task.vocab_size, size=(count, task.input_length)).astype("int32")


@pytest.mark.parametrize(
    ("architecture", "join", "weights"),
    [
        ("transformer", "add", 407_184),  # published
        ("transformer", "rw", 407_184 + 4 * 2),
        ("transformer", "rw+lr", 407_184 + 4 * (2 + 2 * 128 * 12)),
        ("transformer-wide", "add", 407_184 + 4 * 2 * 128 * 12),  # as many as with low-rank joins
        ("hyena", "add", 2_048 + 2 * (124_348 - 3 + 135_168 + 256) + 128 + 2_064),  # filters are 127 long, not 128
        ("striped-hyena-moe", "add", 2_048 + 124_348 - 3 + 66_048 + 2 * 164_872 + 4 * 128 + 128 + 2_064),
        ("mamba", "add", 2_048 + 4 * (107_264 + 128) + 128 + 2_064),
    ],
)
def test_weights(architecture, join, weights):
    assert build(InContextRecall(), architecture, join).count_params() == weights


@pytest.mark.parametrize(
    ("join", "weights"),
    [
        ("rw+lr@rank=8", 2 + 2 * 128 * 8),
        ("rw@per_channel=true", 2 * 128),
        ("rezero", 1),
        ("layerscale", 128),
        ("hyperconnections", 16 + 4 + 4 + 128 * 6 + 3),
    ],
)
def test_weights_of_a_join_with_settings_or_of_another_paper(join, weights):
    plain, model = (build(RECALL, "attention-then-swiglu", name) for name in ("add", join))
    assert model.count_params() - plain.count_params() == 2 * weights
    assert model(tokens(RECALL)).shape == (2, 7, 8)


def test_weights_of_denseformer_weigh_all_states():
    plain, model = (build(RECALL, "transformer", name) for name in ("add", "denseformer@num_activations=4"))
    assert model.count_params() - plain.count_params() == 2 + 3 + 4 + 5


def test_settings_of_a_join_reach_it():
    model = build(RECALL, "mlp", "rw+lr@down_initializer=column_orthogonal@scale=1")
    join = model.get_layer("join_0")
    assert isinstance(join.down_initializer, ColumnOrthogonal)
    assert join.scale == 1.0
    assert build(RECALL, "mlp", "pa@previous=first").get_layer("join_0").num_activations == 1


def test_weights_of_the_auto_encoder():
    encoder = 2_048 + 2 * (66_048 + 135_168 + 256)
    decoder = 2 * (128 + 128 * 128 + 128) + 128 + 128 * 16 + 16
    assert build(Compression(), "transformer").count_params() == encoder + decoder


@pytest.mark.parametrize("task", [RECALL, COMPRESSION])
def test_joins_change_neither_the_other_weights_nor_the_outputs_at_the_start(task):
    plain, changed = (build(task, "attention-then-swiglu", join, seed=3) for join in ("add", "rw+lr+pa"))
    own = {weight.path: to_numpy(weight) for weight in changed.weights}
    assert all(np.array_equal(to_numpy(weight), own[weight.path]) for weight in plain.weights)
    assert np.array_equal(to_numpy(plain(tokens(task))), to_numpy(changed(tokens(task))))


def test_operations_and_state_are_sums_over_the_layers():
    model = build(RECALL, "attention-then-swiglu", "rw+lr", rank=4)
    attention, swiglu = (model.get_layer(name) for name in ("attention_0", "swiglu_1"))
    maps, head = 2 * (2 * 7 * 2 * 128 * 4), 2 * 7 * 128 * 8
    assert accounting.flops(model, 7) == attention.flops(7) + swiglu.flops(7) + maps + head
    assert accounting.state_size(model, 7) == 2 * 7 * 128


def test_operations_of_hyper_connections_worked_by_hand():
    plain, model = (build(RECALL, "mlp", join) for join in ("add", "hyperconnections"))
    # a position: six weights from each of four streams, four streams into four, the branch into four, one out of four
    of_a_join = 2 * 128 * (4 * 6 + 4 * 4 + 4 + 4)
    assert accounting.flops(model, 7) - accounting.flops(plain, 7) == 7 * of_a_join


def test_published_states_are_4096_but_for_the_short_convolutions():
    of_convolutions = {"hyena": 2 * 3 * 512 * 2, "multi-head-hyena": 2 * 3 * 128 * 2, "mamba": 4 * 256 * 3}
    for name in ("hyena", "multi-head-hyena", "mamba", "gated-linear-attention"):
        assert accounting.state_size(build(RECALL, name), 7) == 4_096 + of_convolutions.get(name, 0)


def test_another_seed_is_another_model():
    first, second = (build(RECALL, "mlp", seed=seed) for seed in (0, 1))
    assert not np.array_equal(*(to_numpy(model.get_layer("output").kernel) for model in (first, second)))


@pytest.mark.parametrize("name", ["attention", "gated-linear-attention"])
def test_a_position_of_the_language_model_does_not_see_those_after_it(name):
    model, inputs = build(RECALL, name), tokens(RECALL)
    before = to_numpy(model(inputs))
    inputs[:, 4] = (inputs[:, 4] + 1) % RECALL.vocab_size
    changed = np.abs(to_numpy(model(inputs)) - before).max(axis=(0, 2))
    assert np.all(changed[:4] < 1e-5)
    assert np.all(changed[4:] > 1e-4)


def test_the_auto_encoder_decodes_the_last_state_alone():
    model, inputs = build(COMPRESSION, "attention"), tokens(COMPRESSION)
    join = model.get_layer("join_0")
    states = keras.Model(model.input, join.output)(inputs)
    rest = keras.Model(join.output, model.output)
    same = to_numpy(states).copy()
    same[:, :-1] = 0
    assert np.array_equal(to_numpy(rest(states)), to_numpy(rest(keras.ops.convert_to_tensor(same))))


def test_positions_worked_by_hand():
    # Frequencies 1 and 1/10,000; rows are their sines, then their cosines.
    expected = [[0, 0, 1, 1], [np.sin(1), np.sin(1e-4), np.cos(1), np.cos(1e-4)]]
    np.testing.assert_allclose(positions(2, 4), expected, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "transformer-wide"])
def test_the_decoder_takes_every_architecture(name):
    words = ARCHITECTURES[name]
    sizes = {"num_layers": sum(word not in FEEDFORWARDS for word in words), "num_query_heads": 2, "hidden_dim": 8}
    decoder = LaurelDecoderBackbone(5, **sizes, intermediate_dim=8, mixers=words, feedforward="none")
    layers = [layer for block in decoder.transformer_layers for layer in (block.mixer, block.feedforward) if layer]
    assert [type(layer) for layer in layers] == [
        type(make_mixer(word, 7, "zeros", index)) for index, word in enumerate(words)
    ]


def test_an_architecture_is_a_name_or_mixers():
    assert mixers_of("mamba-then-mlp") == ("mamba", "mlp")
    assert all(len(mixers) == 4 for mixers in ARCHITECTURES.values())
    with pytest.raises(UserError, match="unknown architecture 'mamba-then-magic'; known: transformer, "):
        mixers_of("mamba-then-magic")
