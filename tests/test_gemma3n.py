"""Gemma 3n's LAuReL block beside the code of the libraries that have it, keras_hub and Hugging Face's transformers."""

import functools
import re

import keras
import keras_hub
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from variants import FLOAT32_TOLERANCE, assert_close, randomize, to_numpy

import keras_laurel

DIM, RANK, BLOCK = 8, 3, 1

# A value of bfloat16 rounds by up to 2**-8 of itself. `Laurel` rounds both projections and the sum, the libraries the
# norm too, keras_hub each of its steps; the difference comes to 1.1 roundings.
TOLERANCES = {"float32": FLOAT32_TOLERANCE, "bfloat16": 4 * 2**-8}


@functools.cache
def hugging_face(dtype):
    """Returns the weights of a small text model, and its second LAuReL block as a function of NumPy arrays."""
    config = transformers.Gemma3nTextConfig(
        vocab_size=4,
        vocab_size_per_layer_input=4,
        hidden_size=DIM,
        hidden_size_per_layer_input=2,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        num_kv_shared_layers=0,
        head_dim=4,
        laurel_rank=RANK,
        activation_sparsity_pattern=None,
    )
    model = transformers.Gemma3nTextModel(config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "laurel" in name:
            torch.nn.init.normal_(parameter, generator=generator)
    model.to(getattr(torch, dtype))
    block = model.layers[BLOCK].laurel

    def call(x):
        with torch.no_grad():
            return block(torch.from_numpy(x).to(getattr(torch, dtype))).float().numpy()

    return model.state_dict(), call


@functools.cache
def hub(dtype):
    """Returns the same of keras_hub."""
    backbone = keras_hub.models.Gemma3nBackbone(
        text_vocab_size=4,
        text_hidden_size=DIM,
        num_hidden_layers=2,
        pad_token_id=0,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=4,
        intermediate_size=[4, 4],
        hidden_activation="gelu_approximate",
        layer_types=["full_attention"] * 2,
        sliding_window=4,
        rope_theta=10000.0,
        max_position_embeddings=8,
        vocab_size_per_layer_input=4,
        hidden_size_per_layer_input=2,
        altup_num_inputs=2,
        laurel_rank=RANK,
        dtype=dtype,
    )
    blocks = [layer.laurel for layer in backbone.language_model.transformer_layers]
    for seed, block in enumerate(blocks):
        randomize(block, seed)
    weights = {weight.path: weight for weight in backbone.weights}
    return weights, lambda x: to_numpy(blocks[BLOCK](keras.ops.cast(x, dtype)))


LIBRARIES = pytest.mark.parametrize("library", [hugging_face, hub])


def new_join(**kwargs):
    join = keras_laurel.Laurel(**{"rank": RANK, "norm": "rms", **kwargs})
    join.build([(None, None, DIM)] * 2)
    return join


def random_weights():
    """Returns the three arrays of a block in keras_hub's naming."""
    shapes = {
        "linear_left/kernel": (DIM, RANK),
        "linear_right/kernel": (RANK, DIM),
        "post_laurel_norm/scale": (DIM,),
    }
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def random_x(dtype="float32"):
    x = np.random.default_rng(1).normal(size=(2, 3, DIM))
    return x.astype(getattr(ml_dtypes, dtype, dtype)).astype("float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@LIBRARIES
def test_outputs_are_those_of_the_library(library, dtype):
    weights, block = library(dtype)
    join = new_join(dtype=dtype)
    keras_laurel.load_gemma3n_weights(join, weights, block=BLOCK)
    x = random_x(dtype)
    assert_close(to_numpy(join([x, np.zeros_like(x)])), block(x), TOLERANCES[dtype])


@LIBRARIES
def test_norm_epsilon_is_that_of_the_library(library):
    weights, block = library("float32")
    join = new_join()
    keras_laurel.load_gemma3n_weights(join, weights, block=BLOCK)
    x = 1e-4 * random_x()  # projections whose mean square is below the epsilon
    assert_close(to_numpy(join([x, np.zeros_like(x)])), block(x))


@LIBRARIES
def test_whole_join_is_that_of_gemma3n(library):
    weights, block = library("float32")
    join = new_join(residual_weights="free", scale=2**0.5)
    keras_laurel.load_gemma3n_weights(join, weights, block=BLOCK)
    x, stream, attention = np.random.default_rng(2).normal(size=(3, 2, 3, DIM)).astype("float32")
    expected = (stream + attention + block(x)) / 2**0.5
    assert_close(to_numpy(join([x, stream + attention])), expected)


@LIBRARIES
def test_weights_of_a_checkpoint_in_bfloat16_are_read_exactly(library):
    weights, _ = library("bfloat16")
    join = new_join()
    keras_laurel.load_gemma3n_weights(join, weights, block=BLOCK)
    key = next(key for key in weights if f"{BLOCK}.laurel.post" in key or f"{BLOCK}/laurel/post" in key)
    as_float32 = weights[key].float().numpy() if library is hugging_face else to_numpy(weights[key])
    assert np.array_equal(to_numpy(join.gain), as_float32)


def test_numpy_arrays_of_bfloat16_are_read_exactly():
    arrays = {name: array.astype(ml_dtypes.bfloat16) for name, array in random_weights().items()}
    join = new_join()
    keras_laurel.load_gemma3n_weights(join, arrays)
    assert np.array_equal(to_numpy(join.gain), arrays["post_laurel_norm/scale"].astype("float32"))


@pytest.mark.parametrize("prefix", ["", "laurel/", "text_model/decoder_block_7/laurel/"])
def test_block_may_be_left_out_where_there_is_one(prefix):
    arrays = random_weights()
    join = new_join()
    keras_laurel.load_gemma3n_weights(join, {prefix + name: array for name, array in arrays.items()})
    assert np.array_equal(to_numpy(join.gain), arrays["post_laurel_norm/scale"])


def test_block_1_is_not_block_11():
    arrays = random_weights()
    weights = {f"decoder_block_{i}/laurel/{name}": i * array for i in (1, 11) for name, array in arrays.items()}
    join = new_join()
    keras_laurel.load_gemma3n_weights(join, weights, block=1)
    assert np.array_equal(to_numpy(join.gain), arrays["post_laurel_norm/scale"])


def test_missing_weight_raises():
    weights = random_weights()
    del weights["linear_right/kernel"]
    with pytest.raises(ValueError, match=r"'linear_right.weight' or 'linear_right/kernel'.* Received: 0 such keys"):
        keras_laurel.load_gemma3n_weights(new_join(), weights)


def test_several_blocks_without_block_raise():
    weights, _ = hub("float32")
    with pytest.raises(ValueError, match="Received: 2 such keys, block=None, these 'text_model/decoder_block_0"):
        keras_laurel.load_gemma3n_weights(new_join(), weights)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("linear_left/kernel", (RANK, DIM), (DIM, RANK)),
        ("linear_right.weight", (RANK, DIM), (DIM, RANK)),
        ("post_laurel_norm/scale", (1, DIM), (DIM,)),
    ],
)
def test_wrong_shape_raises_and_changes_nothing(name, shape, expected):
    weights = {key: array for key, array in random_weights().items() if key[:10] != name[:10]}
    join = new_join()
    before = [to_numpy(weight) for weight in join.weights]
    message = f"Expected '{name}' to have shape {expected}. Received: shape={shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        keras_laurel.load_gemma3n_weights(join, {**weights, name: np.zeros(shape)})
    assert all(np.array_equal(to_numpy(weight), value) for weight, value in zip(join.weights, before))


@pytest.mark.parametrize("kwargs", [{"norm": None}, {"rank": None, "num_activations": 1}, {"num_activations": 1}])
def test_another_form_raises(kwargs):
    with pytest.raises(ValueError, match=r"Expected `join` to be a `Laurel\(rank=..., norm='rms'\)`.* Received: join="):
        keras_laurel.load_gemma3n_weights(new_join(**kwargs), random_weights())


def test_unbuilt_join_raises():
    with pytest.raises(ValueError, match=r"Expected a built `join`.* Received: a"):
        keras_laurel.load_gemma3n_weights(keras_laurel.Laurel(rank=RANK, norm="rms", name="a"), random_weights())


@pytest.mark.parametrize("change", [lambda up: up.quantize("int8"), lambda up: up.enable_lora(1)])
def test_quantized_or_lora_factors_raise(change):
    join = new_join(name="a")
    change(join.augmentation.up)
    with pytest.raises(ValueError, match=r"Expected a `join` without quantization and LoRA.* Received: a"):
        keras_laurel.load_gemma3n_weights(join, random_weights())
