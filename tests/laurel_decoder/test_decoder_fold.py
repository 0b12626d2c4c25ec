"""fold on the decoder: the plain decoder, with the same logits and the same tokens."""

import keras
import numpy as np
import pytest
from decoders import backbone, causal_lm, random_tokens, randomize
from keras import ops

import keras_laurel
from keras_laurel.applications import LaurelCausalLM, LaurelDecoderLM
from keras_laurel.applications.laurel_decoder import LaurelDecoderBlock
from keras_laurel.mixers import CausalAttention, SwiGLU

# Arguments of the decoders that fold, and the `residual` that is left.
DECODERS = {
    "rw": ({"residual": "rw"}, "add"),
    "rw_large_epsilon": ({"residual": "rw", "norm_epsilon": 0.5}, "add"),
    "rw+lr": ({"residual": "rw+lr"}, "lr"),
    "rw+pa": ({"residual": "rw+pa"}, "pa"),
    "rw+lr+pa": ({"residual": "rw+lr+pa"}, "lr+pa"),
    "first": ({"residual": "rw+pa", "residual_arguments": {"previous": "first"}}, "pa"),
    "norm": ({"residual": "rw+lr+pa", "residual_arguments": {"norm": "rms", "scale": 3.0, "drop_path": 0.1}}, "lr+pa"),
    "layer_norm": ({"residual": "rw", "norm": "layer", "positions": "learned", "feedforward": "mlp"}, "add"),
    "callable": ({"residual": keras_laurel.LaurelRW, "rank": None}, "add"),
    "one_join_without_rw": ({"residual": "lr+pa", "joins": "block"}, "lr+pa"),
    "add_layers": ({"residual": keras.layers.Add, "rank": None}, "add"),
    "striped": ({"residual": "rw", "mixers": ("mamba", "attention", "moe"), "intermediate_dim": 8}, "add"),
    "one_join_and_no_feedforward": ({"residual": "rw", "joins": "block", "feedforward": "none"}, "add"),
    "remat": ({"residual": "rw+lr", "remat": True}, "lr"),
    "plain": ({"residual": "add"}, "add"),
}


def decoder(**kwargs):
    return randomize(causal_lm("add", **kwargs))


def logits_of(model, **kwargs):
    return ops.convert_to_numpy(model({"token_ids": random_tokens(), **kwargs}))


def assert_same_logits(model, folded, **kwargs):
    expected = logits_of(model, **kwargs)
    assert np.max(np.abs(logits_of(folded, **kwargs) - expected)) <= 1e-5 * np.max(np.abs(expected))


@pytest.mark.parametrize(("arguments", "left"), DECODERS.values(), ids=DECODERS)
def test_logits_are_those_of_the_decoder(arguments, left):
    model = decoder(**arguments)
    folded = keras_laurel.fold(model)
    assert type(folded) is LaurelCausalLM
    assert folded.backbone.residual == left
    assert_same_logits(model, folded)
    assert_same_logits(model, folded, padding_mask=np.array([[1, 1, 1, 1, 0, 0], [1] * 6]))
    assert not [weight.path for weight in folded.weights if weight.path.endswith("logits")]


def test_the_weights_are_those_of_the_plain_decoder():
    folded, plain = keras_laurel.fold(decoder(residual="rw")), decoder(residual="add")
    assert [weight.path for weight in folded.weights] == [weight.path for weight in plain.weights]
    assert folded.backbone.residual_arguments == plain.backbone.residual_arguments


@pytest.mark.parametrize("kind", ["rw", "rw+lr+pa"])
def test_generates_the_same_tokens(kind):
    model = decoder(residual=kind)
    tokens = []
    for lm in (model, keras_laurel.fold(model)):
        lm.compile(sampler="greedy")
        prompts = {"token_ids": random_tokens(12), "padding_mask": np.arange(12) < np.array([[2], [3]])}
        tokens.append(ops.convert_to_numpy(lm.generate(prompts, stop_token_ids=None)["token_ids"]))
    assert np.array_equal(*tokens)
    assert len(np.unique(tokens)) > 2


def test_a_preset_keeps_the_epsilons(tmp_path):
    folded = keras_laurel.fold(randomize(LaurelDecoderLM("tiny", residual="rw+lr", rank=2)))
    folded.save_to_preset(tmp_path)
    loaded = LaurelDecoderLM(tmp_path)
    assert len(set(loaded.backbone.norm_epsilon)) == 5
    assert np.array_equal(logits_of(loaded), logits_of(folded))
    assert loaded.backbone.residual_arguments.keys() == folded.backbone.residual_arguments.keys()


def test_a_backbone_alone_and_folding_twice():
    model = randomize(backbone("rw+lr+pa"))
    folded = keras_laurel.fold(model)
    assert_same_logits(model, folded)
    for mine, theirs in zip(keras_laurel.fold(folded).weights, folded.weights):
        assert np.array_equal(ops.convert_to_numpy(mine), ops.convert_to_numpy(theirs))


def test_frozen_weights_stay_frozen():
    model = decoder(residual="rw")
    model.backbone.token_embedding.trainable = False
    frozen = [weight.path for weight in keras_laurel.fold(model).weights if not weight.trainable]
    assert frozen == ["token_embedding/embeddings"]


def test_mixed_precision_folds_in_float32():
    kwargs = {"residual": "rw+lr"}
    mixed, wide = (keras_laurel.fold(decoder(**kwargs, dtype=dtype)) for dtype in ("mixed_bfloat16", "float32"))
    for mine, theirs in zip(mixed.weights, wide.weights):
        assert np.array_equal(ops.convert_to_numpy(mine), ops.convert_to_numpy(theirs))


@pytest.mark.parametrize("kinds", [("rw",), ("rw+pa", "rw+lr+pa")])
def test_blocks_in_a_model_of_ones_own(kinds):
    inputs = x = keras.Input((3, 8))
    joins = [keras_laurel.residual(kind, rank=2) for kind in kinds]
    x, *_ = LaurelDecoderBlock(CausalAttention(2, rope_max_wavelength=None), SwiGLU(4), joins)([x, x, x])
    if kinds == ("rw",):
        joins[0].residual_weights.logits.assign([0.0, 0.0])
    model = keras.Model(inputs, keras.layers.LayerNormalization()(x))
    if len(kinds) == 2:
        randomize(model)
    values = np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32")
    expected, actual = (ops.convert_to_numpy(m(values)) for m in (model, keras_laurel.fold(model)))
    assert np.max(np.abs(actual - expected)) <= 1e-5 * np.max(np.abs(expected))


def forgetful():
    model = decoder(residual="rw")
    for join in keras_laurel.monitoring.laurel_joins(model).values():
        join.residual_weights.logits.assign([10.0, -10.0])
    return model


def uneven():
    kinds = iter(["rw", "rw+lr", "rw", "rw+lr"])

    def residual(**kwargs):
        return keras_laurel.residual(next(kinds), **kwargs)

    return decoder(residual=residual)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: decoder(residual="rw", joins="block"),
            "'transformer_layer_0/join' of class Laurel.*'transformer_layer_0' of class LaurelDecoderBlock, which adds",
        ),
        (forgetful, "stays in the range of the floats.*Received: layer 'transformer_layer_0/feedforward_join'"),
        (uneven, "joins of one kind"),
    ],
)
def test_error_names_the_layer_and_why(make, message):
    with pytest.raises(ValueError, match=message):
        keras_laurel.fold(make())


def test_wrong_number_of_epsilons():
    with pytest.raises(ValueError, match=r"one number, or 5, as many as there are norms. Received: 2 numbers"):
        backbone("add", norm_epsilon=[1e-6, 1e-5])
