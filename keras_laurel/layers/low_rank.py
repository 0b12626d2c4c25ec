"""The low-rank map of LAuReL-LR."""

import numbers

import keras
from keras import ops

from keras_laurel.layers.quantization import dtype_with_quantized_sublayers


@keras.saving.register_keras_serializable(package="keras_laurel")
class LowRank(keras.layers.Layer):
    """Maps `x` to `(x @ down) @ up`, a matrix of rank `rank` applied to the last axis.

    `down` has shape `(dim, rank)`, `up` `(rank, dim)`: `2 * rank * dim` weights and as many
    multiply-adds per position. `up` starts at zero, so a new map returns zeros and a join that adds it
    starts as the plain join; the first gradient reaches `up` only, the second reaches both.

    Several inputs each have a `down` of their own, and one matmul with the joined `up` of shape
    `(num_inputs * rank, dim)` returns the sum of their maps.

    Args:
        rank: Positive integer below `dim`; the width of the bottleneck.
        down_initializer: Initializer of `down`. Defaults to `"glorot_uniform"`, the paper's choice for ResNet-50;
            `keras_laurel.initializers.ColumnOrthogonal()` is its choice for language models.
        up_initializer: Initializer of `up`. Defaults to `"zeros"`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: Float tensor of shape `(batch, ..., dim)`, or a list of such tensors.

    Returns:
        Tensor of the shape of `x`, in the compute dtype.

    Raises:
        ValueError: If `rank` is no positive integer or both initializers are zeros (neither factor would ever
            get a gradient), or on the first call if `dim` is unknown or not above `rank`.

    Example:
    >>> y = keras_laurel.layers.LowRank(rank=2)(np.ones((1, 4), "float32"))
    >>> ops.convert_to_numpy(y).tolist()
    [[0.0, 0.0, 0.0, 0.0]]

    Reference:
        [Menghani et al., 2025](https://arxiv.org/abs/2411.07501), section 2.2
    """

    def __init__(self, rank, down_initializer="glorot_uniform", up_initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.rank = positive_integer("rank", rank)
        self.down_initializer = keras.initializers.get(down_initializer)
        self.up_initializer = keras.initializers.get(up_initializer)
        if is_zeros(self.down_initializer) and is_zeros(self.up_initializer):
            raise ValueError(
                "Expected at most one of `down_initializer` and `up_initializer` to be zeros: with both, neither "
                f"factor would ever get a gradient. Received: down_initializer={down_initializer}, "
                f"up_initializer={up_initializer}"
            )
        self.supports_masking = True

    def build(self, input_shape):
        shapes = input_shape if isinstance(input_shape[0], (list, tuple)) else [input_shape]
        dim = shapes[0][-1]
        if dim is None or dim <= self.rank:
            raise ValueError(
                f"Expected inputs with a known number of channels above rank={self.rank}. "
                f"Received: input_shape={tuple(shapes[0])}"
            )
        self.downs = [self._dense(f"down_{j}", self.rank, self.down_initializer) for j in range(len(shapes))]
        self.up = self._dense("up", dim, self.up_initializer)
        for down, shape in zip(self.downs, shapes):
            down.build(tuple(shape))
        self.up.build((*shapes[0][:-1], len(shapes) * self.rank))

    def _dense(self, name, units, initializer):
        if isinstance(initializer, keras.initializers.Initializer):
            initializer = initializer.clone()  # an unseeded one draws the same values at every call
        return keras.layers.Dense(
            units, use_bias=False, kernel_initializer=initializer, name=name, dtype=self.dtype_policy
        )

    def call(self, x):
        return self.combine(None, self.project(x if isinstance(x, (list, tuple)) else [x]))

    def project(self, inputs, matmul=None):
        """Returns the list of `inputs[j] @ down_j`, each of shape `(batch, ..., rank)`.

        Args:
            inputs: List of float tensors of shape `(batch, ..., dim)`.
            matmul: Function to multiply with in place of the layers' own calls. Not for a quantized map.
        """
        if matmul is None:
            return [down(x) for down, x in zip(self.downs, inputs)]
        return [matmul(x, ops.convert_to_tensor(down.kernel)) for down, x in zip(self.downs, inputs)]

    def combine(self, gamma, projections, up=None):
        """Returns the sum of `gamma[j] * projections[j] @ up_j`, by one matmul with the joined `up`.

        Args:
            gamma: Sequence of scalars of at least float32, or `None` for ones.
            projections: What `project` returned.
            up: The kernel of `up`, to multiply with in place of the layer's own call.
        """
        if gamma is not None:
            projections = [
                ops.cast(gamma[j] * ops.cast(projection, gamma[j].dtype), self.compute_dtype)
                for j, projection in enumerate(projections)
            ]
        joined = projections[0] if len(projections) == 1 else ops.concatenate(projections, axis=-1)
        return self.up(joined) if up is None else ops.matmul(joined, up)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0] if isinstance(input_shape[0], (list, tuple)) else input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "rank": self.rank,
            "down_initializer": keras.initializers.serialize(self.down_initializer),
            "up_initializer": keras.initializers.serialize(self.up_initializer),
            "dtype": dtype_with_quantized_sublayers(self),
        }


def positive_integer(name, value):
    """Returns `value` as an `int`, or raises a `ValueError` that names the argument."""
    if not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"Expected `{name}` to be a positive integer. Received: {name}={value}")
    return int(value)


def is_zeros(initializer):
    """Whether `initializer` makes tensors of zeros."""
    return isinstance(initializer, keras.initializers.Zeros) or (
        isinstance(initializer, keras.initializers.Constant) and initializer.value == 0
    )
