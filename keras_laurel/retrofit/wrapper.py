"""A LAuReL join around a block that hides its own."""

import inspect
from typing import Any

import keras
from keras import ops

from keras_laurel.layers import Laurel
from keras_laurel.retrofit.models import sublayers


@keras.saving.register_keras_serializable(package="keras_laurel")
class LaurelWrapper(keras.layers.Layer):
    """Wraps a block that returns `x + f(x)`, so that it returns what a LAuReL join of `x` and `f(x)` would.

        y = alpha * block(x) + (beta - alpha) * x + beta * norm(sum_j gamma[j] * h_j(x_j))

    That is `Laurel`'s equation with `f(x) = block(x) - x`, in the form that is exactly `block(x)` at start.

    Args:
        layer: The block: a layer whose first call argument is the stream `x` and that returns a tensor of the same
            shape, or a tuple that starts with one, such as `(y, cache)`.
        join: A new `Laurel` layer. Its `drop_path` drops `f(x)`.
        num_previous: How many earlier states each call gets.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: The stream, under the name that the block has for it.
        previous: List of `num_previous` earlier states, newest first.
        All other arguments go to the block.

    Returns:
        What the block returns, its first tensor replaced.

    Raises:
        ValueError: If `join` is no new `Laurel` layer, or on a call with a wrong number of earlier states.

    Example:
    >>> block = keras.Sequential([keras.layers.Dense(8, "tanh"), keras.layers.Dense(8)])
    >>> x = np.ones((2, 8), "float32")
    >>> layer = keras_laurel.LaurelWrapper(block, keras_laurel.LaurelRW())
    >>> np.array_equal(ops.convert_to_numpy(layer(x)), ops.convert_to_numpy(block(x)))
    True
    """

    def __init__(self, layer, join, num_previous=0, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(join, Laurel):
            raise ValueError(f"Expected `join` to be a `Laurel` layer. Received: join={join!r}")
        self.layer = layer
        self.join = join
        self.num_previous = num_previous
        self.supports_masking = layer.supports_masking
        # Keras sorts the arguments of a call by the signature of `call`, and rejects a `**kwargs` of tensors and
        # numbers (a cache and its index). There is no public way to say that the block's signature holds here.
        self._call_signature = block_signature(layer)

    def build(self, input_shape):
        if not self.layer.built:
            self.layer.build(input_shape)
        if not self.layer.trainable:
            for sublayer in sublayers(self.layer):  # those that its `build` has made do not know of it
                sublayer.trainable = False
        if not self.join.built:
            self.join.build([tuple(input_shape)] * (2 + self.num_previous))

    def call(self, *args, previous=(), **kwargs):
        if len(previous) != self.num_previous:
            raise ValueError(f"Expected {self.num_previous} earlier states. Received: {len(previous)}")
        x = next(iter(inspect.signature(self.layer.call).bind(*args, **kwargs).arguments.values()))
        outputs = self.layer(*args, **kwargs)
        if isinstance(outputs, (tuple, list)):
            return type(outputs)([_combine(self.join, x, outputs[0], previous), *outputs[1:]])
        return _combine(self.join, x, outputs, previous)

    def compute_mask(self, inputs, previous_mask):
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self):
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            "join": keras.saving.serialize_keras_object(self.join),
            "num_previous": self.num_previous,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for key in ("layer", "join"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        return super().from_config(config)


def stream_of(call):
    """Returns the first argument of a block's call: the tensor that its stream comes in by."""
    bound = block_signature(call.operation).bind(*call.arguments.args, **call.arguments.kwargs)
    x: Any = next(iter(bound.arguments.values()), None)
    if not isinstance(x, keras.KerasTensor) or not keras.backend.is_float_dtype(x.dtype):
        raise ValueError(
            "Expected the first argument of a wrapped block to be a float tensor. "
            f"Received: block '{call.operation.name}', called on {x}; let `wrap` leave it out"
        )
    return x


def block_signature(layer):
    """Returns the signature of a wrapped block's call: the block's own, and `previous`."""
    signature = inspect.signature(layer.call)
    parameters = list(signature.parameters.values())
    previous = inspect.Parameter("previous", inspect.Parameter.KEYWORD_ONLY, default=())
    end = len(parameters) - (bool(parameters) and parameters[-1].kind == inspect.Parameter.VAR_KEYWORD)
    return signature.replace(parameters=[*parameters[:end], previous, *parameters[end:]])


def _combine(join, x, y, previous):
    """Returns the join of `x` and `f(x) = y - x`."""
    dtype = keras.backend.result_type(join.compute_dtype, "float32")
    alpha, beta = join.alpha_beta(len(x.shape))
    if join.branch_dropout is not None:
        kept = ops.ones((ops.shape(x)[0],) + (1,) * (len(x.shape) - 1), dtype)
        alpha = alpha * ops.cast(join.branch_dropout(kept), dtype)
    skip = (beta - alpha) * ops.cast(x, dtype) + beta * join.augment(x, previous)
    return ops.cast(alpha * ops.cast(y, dtype) + skip, y.dtype)
