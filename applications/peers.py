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


@keras.saving.register_keras_serializable(package="keras_laurel")
class HyperConnections(_Peer):
    """Joins of `num_streams` streams, mixed by weights of the input (Zhu et al., 2024, arXiv 2409.19606, "DHC").

    Of `[x, fx, *streams]` it returns `[y, *streams]`: the streams are mixed and each takes up `fx`, by what the paper
    calls A_r and B of this branch; then `y`, the input of the next branch, is read from them, by its A_m. Where a stack
    begins, `[x, fx]` will do: every stream is `x`, and `y` is `x + f(x)`.

    Two things differ from the paper: which stream a branch reads at first is drawn, not taken in turn, and what leaves
    the last join is read as every other `y`, not the streams' sum. At start neither changes a normalized output.
    """

    previous = "last"

    def __init__(self, num_streams=4, name=None, dtype=None, **kwargs):
        super().__init__(name=name, dtype=dtype)
        self.num_streams = self.max_previous = num_streams

    def build(self, input_shape):
        n, dim = self.num_streams, input_shape[0][-1]

        def weight(name, shape, initializer):
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        self.mix = weight("mix", (n, n), "identity")  # A_r
        self.write = weight("write", (n,), "ones")  # B
        self.read = weight("read", (n,), _one_drawn)  # A_m of the next branch
        self.kernel = weight("kernel", (dim, n + 2), "zeros")  # of A_r, B and the next A_m
        small = keras.initializers.Constant(0.01)
        self.mix_scale, self.write_scale, self.read_scale = (
            weight(name, (), small) for name in ("mix_scale", "write_scale", "read_scale")
        )

    def call(self, inputs):
        x, fx, *streams = inputs
        streams = ops.stack(streams or [x] * self.num_streams, axis=-2)
        kernel = ops.convert_to_tensor(self.kernel)
        changes = ops.tanh(ops.matmul(_rms_normalized(streams), kernel[:, :-1]))
        mix = self.mix + self.mix_scale * changes[..., :-1]
        write = self.write + self.write_scale * changes[..., -1]
        streams = ops.matmul(ops.swapaxes(mix, -1, -2), streams)
        streams = streams + ops.expand_dims(write, -1) * ops.expand_dims(fx, -2)
        change = ops.tanh(ops.sum(_rms_normalized(streams) * kernel[:, -1], axis=-1))
        read = self.read + self.read_scale * change
        y = ops.sum(ops.expand_dims(read, -1) * streams, axis=-2)
        return [y, *ops.unstack(streams, axis=-2)]

    def flops(self, length):
        """Returns the operations of `length` positions; a multiplication and an addition count as two, norms as none.

        Of each of the n streams come n + 2 weights, and it goes into n streams, takes up the branch and is read.
        """
        n, dim = self.num_streams, self.kernel.shape[0]
        return length * 2 * n * dim * (n + 2 + n + 2)

    def compute_output_shape(self, input_shape):
        return [tuple(input_shape[0])] * (1 + self.num_streams)

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else [mask[0]] * (1 + self.num_streams)

    def get_config(self):
        return {**super().get_config(), "num_streams": self.num_streams}


def _one_drawn(shape, dtype=None):
    return ops.one_hot(keras.random.randint((), 0, shape[0]), shape[0], dtype=dtype)


def _rms_normalized(x):
    return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6)


PEERS = {
    "rezero": ReZero,
    "layerscale": LayerScale,
    "denseformer": DenseFormer,
    "hyperconnections": HyperConnections,
}
