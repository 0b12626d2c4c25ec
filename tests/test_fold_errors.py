"""What fold refuses, by name."""

import keras
import pytest
from folding import randomize, stack
from keras import layers

import keras_laurel
from keras_laurel import LaurelRW, fold


class Hidden(layers.Layer):
    def __init__(self):
        super().__init__(name="hidden")
        self.join = LaurelRW(name="inner")

    def build(self, shape):
        self.join.build([shape, shape])

    def call(self, x):
        return self.join([x, x])


def on_the_stream(layer, **kwargs):
    inputs = keras.Input((4,))
    x = layers.Dense(4, "tanh", name="stem")(inputs)
    x = LaurelRW(name="join", **kwargs)([x, layers.Dense(4)(x)])
    return randomize(keras.Model(inputs, layers.Dense(2)(layer(x))))


def twice(layer):
    inputs = x = keras.Input((4,))
    x = layers.Dense(4)(x)
    for _ in range(2):
        x = layer([x, layers.Dense(4)(x)])
    return keras.Model(inputs, x)


def quantized():
    model = on_the_stream(layers.ReLU())
    model.layers[-1].quantize("int8")
    return model


def free(alpha, beta):
    model = on_the_stream(layers.ReLU(), residual_weights="free")
    model.get_layer("join").residual_weights.logits.assign([alpha, beta])
    return model


def wrapped():
    inputs = keras.Input((4,))
    join = keras_laurel.LaurelWrapper(layers.Dense(4, name="block"), LaurelRW(), name="wrapper")
    return randomize(keras.Model(inputs, join(inputs)))


def whole_stream():
    inputs = keras.Input((4,), name="x")
    y = LaurelRW(name="join")([inputs, layers.Dense(4)(inputs)])
    return randomize(keras.Model(inputs, y, name="net"))


def apart():
    model = stack(lambda x: layers.Dense(4)(x), pre_norm=None, residual_weights="sigmoid", per_channel=True)
    model.get_layer("join_1").residual_weights.logits.assign([[0.0] * 4, [0.0, 0.0, 0.0, -50.0]])
    return model


def weighed_by_channel():
    return stack(lambda x: layers.Dense(4)(x), pre_norm=None, kind="rw+pa", per_channel=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: on_the_stream(layers.Activation("gelu", name="act")), r"'act' of class Activation.*gelu\(s \* x\)"),
        (lambda: on_the_stream(layers.ReLU(6, name="act")), "'act' of class ReLU, which is not positively homogeneous"),
        (lambda: on_the_stream(lambda x: x + 1.0), "of class Add, which adds a constant"),
        (lambda: on_the_stream(layers.Lambda(lambda x: x, name="own")), "'own' of class Lambda, which may treat"),
        (
            lambda: keras.Sequential([keras.Input((4,)), Hidden()]),
            "Received: join 'hidden/inner', which is called more than once, or by",
        ),
        (lambda: twice(LaurelRW(name="join")), "Received: join 'join', which is called more than once, or by"),
        (whole_stream, "input of model 'net'.*'join' of class Laurel.*alpha = .* and beta = .*output of model 'net'"),
        (
            lambda: on_the_stream(layers.LayerNormalization(name="norm"), per_channel=True),
            "no scale of its own for each channel .* layer 'norm' of class LayerNormalization",
        ),
        (weighed_by_channel, "alike in all channels.* Received: layer 'join_1' of class Laurel"),
        (apart, "range of the floats.* Received: layer 'join_1' of class Laurel, up to which"),
        (wrapped, "each weigh one branch.*Received: layer 'wrapper' of class LaurelWrapper, around 'block'"),
        (
            lambda: free(1.0, -0.5),
            r"positive residual weights.*'join' of class LaurelRW, with alpha = 1 and beta = -0.5",
        ),
        (lambda: free(0.0, 0.5), "with alpha = 0 and beta = 0.5"),
        (quantized, "not quantized: fold first, then quantize. Received: layer 'dense.*, quantized to int8"),
        (lambda: Hidden(), "Expected a functional model.*Received: 'hidden' of class Hidden"),
    ],
)
def test_error_names_the_layer_and_why(make, message):
    with pytest.raises(ValueError, match=message):
        fold(make())
