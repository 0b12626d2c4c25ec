"""int8 and int4 on models of both builders, before and after `fold`: what it costs, and that it is saved."""

import math

import keras
import numpy as np
import pytest
from folding import randomize
from variants import to_numpy

import keras_laurel
from keras_laurel.applications import LaurelCausalLM, LaurelDecoderBackbone, LaurelResNet50

pytestmark = [
    # Keras says so of every layer without weights to quantize, `InputLayer` first.
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method implemented:UserWarning"),
    # PyTorch of Keras's quantized `ReversibleEmbedding`, which transposes the steps of its kernel, a vector.
    pytest.mark.filterwarnings("ignore:The use of `x.T` on tensors of dimension other than 2:UserWarning"),
]

IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
TOKENS = np.random.default_rng(0).integers(11, size=(3, 6)).astype("int32")


def resnet(word):
    arguments = {"weights": None, "input_shape": (32, 32, 3), "classes": 3, "classifier_activation": None}
    return LaurelResNet50(**arguments, num_blocks=(1,), filters=(4,), residual=word, rank=2)


def decoder(word):
    sizes = {"vocabulary_size": 11, "num_layers": 1, "num_query_heads": 2, "hidden_dim": 8, "intermediate_dim": 6}
    return LaurelCausalLM(LaurelDecoderBackbone(**sizes, num_key_value_heads=1, residual=word, rank=2))


def retrofitted(word):
    return keras_laurel.laurelize(resnet("add"), word, rank=2 if "lr" in word else None)


MODELS = {
    "resnet": (resnet, "rw+lr+pa", IMAGES),
    "retrofitted": (retrofitted, "rw+lr+pa", IMAGES),
    "decoder-rw": (decoder, "rw", TOKENS),  # folded, the plain decoder
    "decoder": (decoder, "rw+lr+pa", TOKENS),
}


def quantized_layers(model, mode):
    return [layer for layer in model._flatten_layers() if layer.quantization_mode == mode]


def relative_error(outputs, expected):
    return math.sqrt(np.mean((outputs - expected) ** 2) / np.mean(expected**2))


def bound(mode, num_layers):
    """Returns the relative error, in the root mean square, that rounding `num_layers` kernels may cost.

    A kernel is rounded to `levels` steps on each side of zero, which is off by a step over `sqrt(12)` in the root mean
    square, and a step is the largest weight of a channel over `levels`. The largest of ten or a hundred weights is
    within three times their root mean square, so a kernel adds `3 / (levels * sqrt(12))`, and its inputs, which are
    rounded to int8 in both modes, `3 / (127 * sqrt(12))`. All errors are independent: they add up as squares do.
    """
    levels = {"int8": 127, "int4": 7}[mode]
    return math.sqrt(num_layers * (levels**-2 + 127**-2) * 9 / 12)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("resnet", "int8"), ("decoder", "int4")]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (("resnet", "int4"), ("decoder", "int8"), ("retrofitted", "int8"), ("decoder-rw", "int4"))
    ],
)
def test_a_quantized_model_is_close_is_saved_and_may_be_folded_before(name, mode, tmp_path):
    function, word, inputs = MODELS[name]
    original = randomize(function(word))
    exact, outputs = to_numpy(original(inputs)), {}
    for label, model in {"folded": keras_laurel.fold(original), "as it is": original}.items():
        model.quantize(mode)
        layers = quantized_layers(model, mode)
        assert layers
        outputs[label] = to_numpy(model(inputs))
        assert 0 < relative_error(outputs[label], exact) < bound(mode, len(layers))

        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
        assert len(quantized_layers(loaded, mode)) == len(layers)
        if function is decoder:
            # A loaded output layer rounds its inputs too, one that was quantized in place does not (Keras 3.15).
            pair = [to_numpy(task.backbone(inputs)) for task in (model, loaded)]
        else:
            pair = [outputs[label], to_numpy(loaded(inputs))]
        assert np.array_equal(*pair)
    # Alpha and beta scale a kernel as a whole, and each of its channels is rounded in steps of its largest weight: the
    # plain model that `fold` returns loses as much.
    assert relative_error(*outputs.values()) < 1e-4
