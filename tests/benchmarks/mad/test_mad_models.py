"""The models of the benchmark: counts of weights, what they see, and what joins leave as it was."""

import keras
import numpy as np
import pytest
from variants import to_numpy

from applications.errors import UserError
from benchmarks.mad.architectures import ARCHITECTURES, mixers_of
from benchmarks.mad.models import build, positions
from benchmarks.mad.tasks import Compression, InContextRecall

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
        ("mamba", "add", 2_048 + 4 * (107_264 + 128) + 128 + 2_064),
    ],
)
def test_weights(architecture, join, weights):
    assert build(InContextRecall(), architecture, join).count_params() == weights


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


def test_an_architecture_is_a_name_or_mixers():
    assert mixers_of("mamba-then-mlp") == ("mamba", "mlp")
    assert all(len(mixers) == 4 for mixers in ARCHITECTURES.values())
    with pytest.raises(UserError, match="unknown architecture 'mamba-then-magic'; known: transformer, "):
        mixers_of("mamba-then-magic")
