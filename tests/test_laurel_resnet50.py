import keras
import numpy as np
import pytest

from keras_laurel import Laurel
from keras_laurel.applications import LaurelResNet50

SMALL = {"weights": None, "input_shape": (32, 32, 3), "classes": 3, "num_blocks": (1, 2), "filters": (2, 4)}


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def joins(model):
    return [layer for layer in model.layers if isinstance(layer, Laurel)]


@pytest.mark.parametrize(
    ("num_blocks", "count"),
    # ResNet-50, and the paper's control of one more layer (+4.37%)
    [((3, 4, 6, 3), 25_583_592), ((3, 4, 7, 3), 26_702_312)],
)
def test_plain_counts_are_those_published(num_blocks, count):
    assert trainable(LaurelResNet50(weights=None, residual="add", num_blocks=num_blocks)) == count


def test_plain_is_keras_resnet50_to_the_last_weight_and_output():
    own = LaurelResNet50(weights=None, input_shape=(32, 32, 3), include_top=False, pooling="avg", residual="add")
    other = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), include_top=False, pooling="avg")
    assert [weight.path for weight in own.weights] == [weight.path for weight in other.weights]
    own.set_weights(other.get_weights())
    x = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    assert np.array_equal(*(keras.ops.convert_to_numpy(model(x)) for model in (own, other)))


@pytest.mark.slow_on("jax", "tensorflow")
def test_residual_weights_add_32_and_the_low_rank_maps_2rd_a_join():
    plain = 25_583_592
    assert trainable(LaurelResNet50(weights=None, residual="rw")) - plain == 32
    channels = 3 * 256 + 4 * 512 + 6 * 1024 + 3 * 2048
    assert trainable(LaurelResNet50(weights=None, residual="rw+lr", rank=16)) - plain == 32 + 2 * 16 * channels


def test_a_new_model_is_the_plain_one_of_the_same_weights():
    new, plain = LaurelResNet50(**SMALL, residual="rw+lr+pa", rank=2), LaurelResNet50(**SMALL, residual="add")
    values = {weight.path: weight for weight in plain.weights}
    for weight in new.weights:
        if weight.path in values:
            values.pop(weight.path).assign(weight)
    assert not values
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    assert np.array_equal(*(keras.ops.convert_to_numpy(model(x)) for model in (new, plain)))
    assert [join.num_inputs for join in joins(new)] == [2, 2, 3]  # the history starts anew in each stage


def test_it_is_drawn_on_the_input_that_it_is_given():
    inputs = keras.Input((32, 32, 3))
    model = LaurelResNet50(**SMALL, input_tensor=inputs, residual="rw")
    assert model.inputs[0] is inputs


def test_saved_weights_load_by_path(tmp_path):
    model = LaurelResNet50(**SMALL, residual="rw")
    joins(model)[0].residual_weights.logits.assign([1.0, -1.0])
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = LaurelResNet50(**{**SMALL, "weights": str(tmp_path / "model.weights.h5")}, residual="rw")
    for weight, expected in zip(loaded.weights, model.weights):
        assert np.array_equal(keras.ops.convert_to_numpy(weight), keras.ops.convert_to_numpy(expected))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_step_of_training_moves_every_weight_of_the_joins():
    model = LaurelResNet50(**SMALL, residual="rw", drop_path=0.1)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    model.train_on_batch(rng.normal(size=(4, 32, 32, 3)), rng.integers(3, size=4))
    for join in joins(model):
        assert np.all(keras.ops.convert_to_numpy(join.residual_weights.logits) != 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": (64, 128)}, r"one width a stage. Received: num_blocks=\(3, 4, 6, 3\), filters=\(64, 128\)"),
        ({"num_blocks": (3, 4, 7, 3)}, r"with weights='imagenet'. Received: num_blocks=\(3, 4, 7, 3\)"),
        ({"weights": "imagenot"}, "None, 'imagenet' or an existing file. Received: weights=imagenot"),
        ({"weights": None, "residual": "near"}, "Received: 'near'"),
    ],
)
def test_error_names_what_was_expected_and_received(arguments, message):
    with pytest.raises(ValueError, match=message):
        LaurelResNet50(**arguments)
