import keras
import numpy as np
import pytest
from decoders import backbone, random_tokens, randomize
from keras import ops
from variants import assert_close, to_numpy

import keras_laurel
from keras_laurel.applications import LaurelDecoderBackbone
from keras_laurel.applications.laurel_decoder import scaled_kernels
from keras_laurel.applications.laurel_decoder.mixers import FEEDFORWARDS, MIXERS

TOLERANCE = 2e-5  # float32, and divisions by small sums in linear attention
SIGMOID = {"residual_weights": "sigmoid"}
NORMED = {"norm": "rms", "norm_epsilon": 1e-12}

IS_TORCH = keras.backend.backend() == "torch"

where_kernels_are_scaled = pytest.mark.skipif(IS_TORCH, reason="PyTorch's norms take no tensor for an epsilon.")


@pytest.fixture
def by_the_joins(monkeypatch):
    """Returns a function after whose call decoders train with their joins' own gradients."""
    return lambda: monkeypatch.setattr(LaurelDecoderBackbone, "_scales_kernels", False)


def gradients(model, padding_mask=None):
    """Returns the gradients of all weights, by the step of gradient descent that they make, which is taken back."""
    tokens = random_tokens()
    cotangent = np.random.default_rng(5).normal(size=(*tokens.shape, 8)).astype("float32")
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(1.0), lambda target, output: ops.sum(target * output, axis=(1, 2)))
    model.train_on_batch({"token_ids": tokens, "padding_mask": padding_mask}, cotangent)
    after = model.get_weights()
    model.set_weights(before)
    return {weight.path: a - b for weight, a, b in zip(model.weights, before, after)}


def of_logits(gradients):
    return np.concatenate([gradient for path, gradient in gradients.items() if path.endswith("logits")])


def unlike(**kwargs):
    """Returns a decoder whose alphas and betas differ."""
    return randomize(backbone("rw", **kwargs))


@where_kernels_are_scaled
@pytest.mark.parametrize(
    "settings",
    [
        {"num_layers": 3, "mixers": ("attention", "gated_linear_attention", "hyena")},
        {"num_layers": 3, "mixers": ("mamba", "hyena-experts", "attention", "moe"), "intermediate_dim": 8},
        {"residual_arguments": SIGMOID, "feedforward": "mlp", "norm": "layer", "positions": "learned"},
        {"residual_arguments": {"residual_weights": "single"}},
        {"residual": "rw+lr"},
        {"residual": "rw+pa", "num_layers": 3},
        {"residual": "rw+pa", "residual_arguments": {"previous": "first"}},
        {"residual": "rw+pa", "residual_arguments": NORMED},
        {"residual": "rw+lr", "residual_arguments": NORMED},
        {"residual": "rw+lr+pa", "residual_arguments": NORMED, "num_layers": 3},
    ],
)
def test_gradients_are_those_of_the_joins(settings, by_the_joins, monkeypatch):
    monkeypatch.setattr(scaled_kernels, "PERIOD", 3)
    model = unlike(norm_epsilon=1e-12, **settings)
    mask = np.array([[1] * 6, [0] * 2 + [1] * 4])
    assert model._scales_kernels
    ours = gradients(model, mask)
    by_the_joins()
    theirs = gradients(model, mask)
    assert np.min(np.abs(of_logits(theirs))) > 100 * TOLERANCE
    for path, gradient in theirs.items():
        assert_close(ours[path], gradient, TOLERANCE)


@pytest.mark.parametrize("mixers", [*MIXERS, *(("attention", word) for word in FEEDFORWARDS if word != "none")])
def test_every_sublayer_lets_its_last_layer_be_applied_otherwise(mixers):
    block = unlike(mixers=mixers, num_layers=1, intermediate_dim=8).transformer_layers[0]
    x = np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32")
    for sublayer in (block.mixer, block.feedforward):
        doubled = sublayer(x, project=lambda layer, inputs: 2 * layer(inputs))
        assert np.array_equal(to_numpy(doubled), 2 * to_numpy(sublayer(x)))


@where_kernels_are_scaled
def test_of_a_gradient_no_more_than_the_share_of_epsilon_is_neglected(by_the_joins):
    epsilon = 1e-2
    model = unlike(norm_epsilon=epsilon)
    ours = of_logits(gradients(model))
    by_the_joins()
    theirs = of_logits(gradients(model))
    smallest = np.mean(to_numpy(model.embed(random_tokens())[0]) ** 2, axis=-1).min()
    assert 1e-4 < np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < epsilon / (smallest + epsilon)


@where_kernels_are_scaled
@pytest.mark.parametrize("residual", ["rw", "rw+lr+pa"])
def test_in_training_as_in_inference(residual):
    model, tokens = unlike(residual=residual, num_layers=5), random_tokens()
    assert model._scales_kernels
    assert_close(to_numpy(model(tokens, training=True)), to_numpy(model(tokens)))


@where_kernels_are_scaled
def test_a_stream_that_all_joins_forget_stays_in_the_range_of_floats():
    rng = np.random.default_rng(0)
    shape, joins = (2, 3, 8), [keras_laurel.LaurelRW("sigmoid") for _ in range(20)]
    for join in joins:
        join.build([shape] * 2)
        join.residual_weights.logits.assign([0.0, -5.0])  # a beta of 0.013: the product of all is 1e-38
    kernels, norm = scaled_kernels.ScaledKernels(joins), keras.layers.RMSNormalization(epsilon=0.1)
    norm.build(shape)
    x = y = ops.convert_to_tensor(rng.normal(size=shape), "float32")
    for join in joins:
        fx, scales = ops.convert_to_tensor(rng.normal(size=shape), "float32"), kernels.next()
        x, y = join([x, fx]), join([y, scales.kernel * fx], scales=scales)
        assert_close(to_numpy(kernels.normalize(norm, y)), to_numpy(norm(x)))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_new_model_trains_as_the_plain_one_bit_for_bit(dtype):
    model, plain = backbone("rw", dtype=dtype), backbone("add", dtype=dtype)
    plain.set_weights([value for weight, value in zip(model.weights, model.get_weights()) if weight.name != "logits"])
    tokens = random_tokens()
    assert np.array_equal(*(to_numpy(each(tokens, training=True)) for each in (model, plain)))


@where_kernels_are_scaled
def test_a_kernel_is_rounded_after_it_is_scaled():
    """By a scale of 1 + 2**-10 what is rounded to bfloat16 already would stay what it is."""

    class Projected(keras.layers.Layer):
        def __init__(self):
            super().__init__(dtype="mixed_bfloat16")
            self.dense = keras.layers.Dense(64, use_bias=False, dtype="mixed_bfloat16")

        def build(self, input_shape):
            self.dense.build(input_shape)

        def call(self, x):
            join = keras_laurel.LaurelRW("sigmoid")
            join.build([(1, 64)] * 2)
            join.residual_weights.logits.assign([2**-9, 0.0])
            return scaled_kernels.ScaledKernels([join]).next().project(self.dense, x)

    layer = Projected()
    layer.build((1, 64))
    found = to_numpy(ops.cast(layer(np.eye(64, dtype="float32")), "float32")).astype("float64")
    kernel = to_numpy(layer.dense.kernel).astype("float64")
    assert np.sum(found * kernel) / np.sum(kernel**2) == pytest.approx(1 + 2**-10, abs=2**-12)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, not IS_TORCH),
        ({"dropout": 0.1}, not IS_TORCH),
        ({"residual_arguments": {"residual_weights": "free"}}, False),
        ({"residual_arguments": {"per_channel": True}}, False),
        ({"residual_arguments": {"drop_path": 0.1}}, False),
        ({"residual": "rw+lr"}, not IS_TORCH),
        ({"residual": "rw+pa"}, not IS_TORCH),
        ({"residual": "lr"}, False),
        ({"residual": "add"}, False),
        ({"residual": lambda **kwargs: keras.layers.Add(name=kwargs["name"])}, False),
        ({"joins": "block"}, False),
        ({"remat": True}, False),
    ],
)
def test_whose_kernels_are_scaled(settings, expected):
    assert backbone("rw", **settings)._scales_kernels == expected


@where_kernels_are_scaled
def test_frozen_kernels_are_not_scaled():
    model = backbone("rw")
    model.transformer_layers[1].feedforward.output_dense.enable_lora(1)
    assert not model._scales_kernels


@where_kernels_are_scaled
def test_joins_of_two_kinds_are_not_scaled():
    forms = iter(["softmax", "sigmoid"] * 2)
    model = backbone(residual=lambda name, **kwargs: keras_laurel.LaurelRW(next(forms), name=name))
    assert not model._scales_kernels


@where_kernels_are_scaled
def test_dropout_drops_what_it_drops_by_the_joins(by_the_joins):
    model = unlike(dropout=0.5)
    tokens = random_tokens()
    seeds = [dropout.seed_generator.state for block in model.transformer_layers for dropout in block.dropouts]
    states = [to_numpy(seed).copy() for seed in seeds]

    def outputs():
        keras.utils.set_random_seed(0)
        for seed, state in zip(seeds, states):
            seed.assign(state)
        return to_numpy(model(tokens, training=True))

    ours = outputs()
    by_the_joins()
    assert_close(ours, outputs())
