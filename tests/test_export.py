"""`Model.export` of both builders, before and after `fold`: the exported file is run, without Keras, and compared.

What a backend does not export fails by an error of Keras or of the library that it calls, which is tested too, so that
we notice when it works: a slow test, as no change of ours makes it. The table of README's section "Deployment" says the
same.
"""

import functools

import keras
import numpy as np
import pytest
from folding import randomize
from variants import to_numpy

import keras_laurel
from keras_laurel.applications import LaurelCausalLM, LaurelDecoderBackbone, LaurelResNet50

# Keras's exporters and the libraries that they call warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore")

BACKEND = keras.backend.backend()
IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
TOKENS = np.random.default_rng(0).integers(11, size=(3, 6)).astype("int32")


def resnet(word):
    arguments = {"weights": None, "input_shape": (32, 32, 3), "classes": 3, "classifier_activation": None}
    return randomize(LaurelResNet50(**arguments, num_blocks=(1, 1), filters=(4, 4), residual=word, rank=2))


def decoder(word, **kwargs):
    sizes = {"vocabulary_size": 11, "num_layers": 1, "num_query_heads": 2, "hidden_dim": 8, "intermediate_dim": 6}
    backbone = LaurelDecoderBackbone(
        **sizes, num_key_value_heads=1, max_sequence_length=6, residual=word, rank=2, **kwargs
    )
    return randomize(LaurelCausalLM(backbone))


BUILDERS = {"resnet": (resnet, IMAGES), "decoder": (decoder, TOKENS)}
# The others are parts of these; and of a folded model only weights are missing.
EVERY_DAY = {
    ("resnet", "rw+lr+pa", False): (),
    ("decoder", "rw+lr+pa", False): (),
    ("decoder", "rw+lr+pa", True): pytest.mark.slow_on("jax", "tensorflow"),
}
MODELS = [
    pytest.param(
        *(builder, word, folded),
        id=f"{builder}-{word}{'-folded' if folded else ''}",
        marks=EVERY_DAY.get((builder, word, folded), pytest.mark.slow),
    )
    for builder in BUILDERS
    for word in ("rw", "rw+lr+pa")
    for folded in (False, True)
]


def make(builder, word="rw+lr+pa", folded=False):
    """Returns a model, and inputs for it."""
    function, inputs = BUILDERS[builder]
    model = function(word)
    return keras_laurel.fold(model) if folded else model, inputs


def signature(inputs, *fixed):
    """Returns an `input_signature` of unknown sizes, but for the axes `fixed` and those of images."""
    known = (1, 2, 3) if inputs.ndim == 4 else fixed
    shape = tuple(size if axis in known else None for axis, size in enumerate(inputs.shape))
    return [keras.InputSpec(shape=shape, dtype=str(inputs.dtype), name="inputs")]


# The formats. Each exports a model of one input to `folder`, of a batch that it does not know where it can, and returns
# what the file gives for `inputs`. Of unknown sizes, Keras would otherwise export PyTorch's models for a batch of 1.


def tf_saved_model(model, inputs, folder, fixed=()):
    import tensorflow as tf

    model.export(folder / "model", verbose=False, input_signature=signature(inputs, *fixed))
    loaded = tf.saved_model.load(folder / "model")
    return loaded.serve(tf.constant(inputs)).numpy()


def onnx(model, inputs, folder, fixed=None):
    import onnxruntime

    if fixed is None:  # for the others, see `test_a_decoder_of_unknown_sizes_is_not_exported_everywhere`
        fixed = {"tensorflow": (), "jax": (1,), "torch": (0, 1)}[BACKEND] if inputs.ndim == 2 else ()
    model.export(str(folder / "model.onnx"), format="onnx", verbose=False, input_signature=signature(inputs, *fixed))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def openvino(model, inputs, folder):
    import openvino

    path = str(folder / "model.xml")
    model.export(path, format="openvino", verbose=False, input_signature=signature(inputs))
    # Where the processor can, OpenVINO computes in bfloat16 unless told.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled([inputs])[0]


def litert(model, inputs, folder, fixed=(1,)):
    from ai_edge_litert.interpreter import Interpreter

    path = str(folder / "model.tflite")
    model.export(path, format="litert", verbose=False, input_signature=signature(inputs, *fixed))
    run = Interpreter(path).get_signature_runner()
    (name,) = run.get_input_details()
    return next(iter(run(**{name: inputs}).values()))


def torch(model, inputs, folder):
    import torch

    path, sizes = str(folder / "model.pt2"), {0: torch.export.Dim("batch")}
    if inputs.ndim == 2:
        sizes[1] = torch.export.Dim("length")
    model.export(path, format="torch", verbose=False, input_signature=signature(inputs), dynamic_shapes=sizes)
    return torch.export.load(path).module()(torch.from_numpy(inputs)).detach().numpy()


WORKS = {
    "jax": [tf_saved_model, onnx],
    "tensorflow": [tf_saved_model, onnx, openvino, litert],
    "torch": [onnx, openvino, torch],
}
FAILS = {
    "jax": {
        openvino: "No conversion rule found for operations: XlaCallModule",
        litert: "LiteRT export requires TensorFlow or PyTorch backend",
        torch: "Torch export requires PyTorch backend",
    },
    "tensorflow": {torch: "Torch export requires PyTorch backend"},
    "torch": {
        tf_saved_model: "Detected mismatch between the structure of `inputs` and `dynamic_shapes`",
        litert: "pip install litert-torch",  # which wants an older PyTorch
    },
}


def assert_same_outputs(outputs, expected):
    assert outputs.shape == expected.shape
    error = np.max(np.abs(outputs - expected)) / np.max(np.abs(expected))
    assert error <= 1e-5, f"off by {error:.1e}, relative to the largest value"


@pytest.mark.parametrize("run_exported", WORKS[BACKEND])
@pytest.mark.parametrize(("builder", "word", "folded"), MODELS)
def test_an_exported_file_gives_the_same_outputs(run_exported, builder, word, folded, tmp_path):
    model, inputs = make(builder, word, folded)
    if BACKEND == "jax" and run_exported is onnx and builder == "resnet":
        # See `test_onnx_of_max_pooling_does_not_run`: what comes after it.
        stem = keras.Model(model.input, model.get_layer("pool1_pool").output)
        model, inputs = keras.Model(stem.output, model.output), to_numpy(stem(inputs))
        model(inputs)
    assert_same_outputs(run_exported(model, inputs, tmp_path), to_numpy(model(inputs)))


@pytest.mark.slow
@pytest.mark.parametrize(("run_exported", "message"), FAILS[BACKEND].items())
@pytest.mark.parametrize("builder", BUILDERS)
def test_what_is_not_exported_fails_by_an_error(run_exported, message, builder, tmp_path):
    model, inputs = make(builder)
    with pytest.raises(Exception, match=message):
        run_exported(model, inputs, tmp_path)


NEEDS = {
    "jax": [(onnx, "JAX2ONNX_DYNAMIC_DIM_SENTINEL")],
    "tensorflow": [(litert, "Select TensorFlow op")],
    "torch": [(onnx, "Exporting the operator 'aten::rms_norm' to ONNX")],
}


@pytest.mark.slow
@pytest.mark.parametrize(("run_exported", "message"), NEEDS[BACKEND])
def test_a_decoder_of_unknown_sizes_is_not_exported_everywhere(run_exported, message, tmp_path):
    with pytest.raises(Exception, match=message):
        run_exported(*make("decoder"), tmp_path, fixed=())


if BACKEND == "jax":

    @pytest.mark.slow
    def test_onnx_of_max_pooling_does_not_run(tmp_path):
        # jax2onnx pools over the channels too, which ONNX Runtime refuses: the first layers of every ResNet.
        model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.MaxPooling2D(3)])
        model(IMAGES)
        with pytest.raises(Exception, match="Unsupported pooling size"):
            onnx(model, IMAGES, tmp_path)

    @pytest.mark.parametrize("builder", BUILDERS)
    def test_inference_has_no_gradient_of_its_own(builder):
        import jax

        model, inputs = make(builder)
        for training in (False, True):
            program = str(jax.make_jaxpr(functools.partial(model, training=training))(inputs))
            assert ("custom_vjp" in program) == training

    @pytest.mark.slow
    def test_learned_positions_want_a_fixed_length(tmp_path):
        model = decoder("rw", positions="learned")
        with pytest.raises(Exception, match="Symbolic dimension comparison"):
            tf_saved_model(model, TOKENS, tmp_path)
        assert_same_outputs(tf_saved_model(model, TOKENS, tmp_path, fixed=(1,)), to_numpy(model(TOKENS)))


if BACKEND == "torch":

    def test_pytorch_finds_the_weights_of_a_decoder():
        model = decoder("rw+lr+pa")
        for part in (model, model.backbone, keras_laurel.fold(model)):
            assert len(list(part.parameters())) == len(part.weights)


@pytest.mark.parametrize("folded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_padding_mask_is_exported(folded, tmp_path):
    model, _ = make("decoder", folded=folded)
    inputs = {"token_ids": TOKENS, "padding_mask": np.array([[1] * 6, [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], "int32")}
    if BACKEND == "torch":
        import torch

        sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
        model.export(tmp_path / "model.pt2", format="torch", verbose=False, dynamic_shapes=dict.fromkeys(inputs, sizes))
        run = torch.export.load(tmp_path / "model.pt2").module()
        outputs = run({name: torch.from_numpy(value) for name, value in inputs.items()}).detach().numpy()
    else:
        import tensorflow as tf

        # By itself Keras takes the lengths of the two for different ones.
        shapes = {"jax2tf_kwargs": {"polymorphic_shapes": [dict.fromkeys(inputs, "(batch, length)")]}}
        model.export(tmp_path / "model", verbose=False, **(shapes if BACKEND == "jax" else {}))
        loaded = tf.saved_model.load(tmp_path / "model")
        outputs = loaded.serve({name: tf.constant(value) for name, value in inputs.items()}).numpy()
    assert_same_outputs(outputs, to_numpy(model(inputs)))


@pytest.mark.parametrize("builder", ["decoder", pytest.param("resnet", marks=pytest.mark.slow)])
def test_a_trained_model_is_exported(builder, tmp_path):
    model, inputs = make(builder)
    labels = np.zeros(len(inputs) if builder == "resnet" else inputs.shape, "int32")
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.train_on_batch(inputs, labels)
    run_exported = torch if BACKEND == "torch" else tf_saved_model
    assert_same_outputs(run_exported(model, inputs, tmp_path), to_numpy(model(inputs)))
