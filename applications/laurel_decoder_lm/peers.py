"""Other learned joins, to compare LAuReL with in the same model: what their papers have in place of `x + f(x)`."""

import keras
from keras import ops


class _Peer(keras.layers.Layer):
    """A join of `[x, fx, *previous]`. What else `keras_laurel.residual` passes on is LAuReL's and left out."""

    def __init__(self, name=None, dtype=None, **kwargs):
        super().__init__(name=name, dtype=dtype)
        self.supports_masking = True

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else mask[0]


@keras.saving.register_keras_serializable(package="keras_laurel")
class ReZero(_Peer):
    """Returns `x + a * f(x)`; the scalar `a` is zero at start (Bachlechner et al., 2020, arXiv 2003.04887)."""

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(), initializer="zeros")

    def call(self, inputs):
        x, fx = inputs
        return x + self.scale * fx


@keras.saving.register_keras_serializable(package="keras_laurel")
class LayerScale(_Peer):
    """Returns `x + a * f(x)`; `a` has a value a channel, 0.1 at start (Touvron et al., 2021, arXiv 2103.17239)."""

    def build(self, input_shape):
        initial = keras.initializers.Constant(0.1)  # of the paper, up to 18 blocks
        self.scale = self.add_weight(name="scale", shape=(input_shape[0][-1],), initializer=initial)

    def call(self, inputs):
        x, fx = inputs
        return x + self.scale * fx


@keras.saving.register_keras_serializable(package="keras_laurel")
class DenseFormer(_Peer):
    """Returns a weighted sum of `x + f(x)`, `x` and earlier states (Pagliardini et al., 2024, arXiv 2402.02622).

    The paper weighs all states: choose `num_activations` to be the number of joins. At start it is `x + f(x)`.
    """

    previous = "last"  # which states `keras_laurel.History` gives

    def __init__(self, num_activations=3, name=None, dtype=None, **kwargs):
        super().__init__(name=name, dtype=dtype)
        self.num_activations = num_activations
        self.max_previous = num_activations - 1

    def build(self, input_shape):
        self.weights_of_states = self.add_weight(name="weights", shape=(len(input_shape),), initializer=_first_alone)

    def call(self, inputs):
        x, fx, *previous = inputs
        weights = ops.convert_to_tensor(self.weights_of_states)
        return sum(weights[j] * state for j, state in enumerate([x + fx, x, *previous]))

    def get_config(self):
        return {**super().get_config(), "num_activations": self.num_activations}


def _first_alone(shape, dtype=None):
    return ops.cast(ops.arange(shape[0]) == 0, dtype)


PEERS = {"rezero": ReZero, "layerscale": LayerScale, "denseformer": DenseFormer}
