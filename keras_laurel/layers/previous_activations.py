"""The weighted previous activations of LAuReL-PA."""

import keras
from keras import ops

from keras_laurel.layers.low_rank import LowRank, positive_integer
from keras_laurel.layers.quantization import dtype_with_quantized_sublayers


@keras.saving.register_keras_serializable(package="keras_laurel")
class PreviousActivations(keras.layers.Layer):
    """Returns `sum_j gamma[j] * h_j(states[j])` over the newest states of the residual stream.

    `h_j` is the identity, or a low-rank map of its own for each `j` if `rank` is given. `gamma` has one weight
    for each state that the layer is built with: early joins see fewer states than `num_activations`.

    The last factor of each product starts at zero, so that a new layer returns zeros, and no other does, so that
    it learns: `gamma` is zero at start if `h` is the identity, one if `h` is low rank (there `up` is zero).

    Args:
        num_activations: Positive integer k, the most states to weigh, the join's own input among them.
        rank: Positive integer below `dim`, the rank of each `h_j`; `None` for the identity.
        gamma_initializer: Initializer of `gamma`. Defaults to `"zeros"`, or `"ones"` if `rank` is given.
        down_initializer, up_initializer: See `LowRank`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        states: List of float tensors of one shape `(batch, ..., dim)`, newest first.

    Returns:
        Tensor of the shape of one state; float32 or wider if `h` is the identity, else in the compute dtype.

    Raises:
        ValueError: If `num_activations` is no positive integer, or on the first call with more states.

    Example:
    >>> layer = keras_laurel.layers.PreviousActivations(num_activations=2, gamma_initializer="ones")
    >>> ops.convert_to_numpy(layer([np.ones((1, 2)), np.full((1, 2), 3.0)])).tolist()
    [[4.0, 4.0]]

    Reference:
        [Menghani et al., 2025](https://arxiv.org/abs/2411.07501), section 2.3
    """

    def __init__(
        self,
        num_activations,
        rank=None,
        gamma_initializer=None,
        down_initializer="glorot_uniform",
        up_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_activations = positive_integer("num_activations", num_activations)
        self.rank = rank
        self.gamma_initializer = keras.initializers.get(gamma_initializer or ("ones" if rank else "zeros"))
        self.down_initializer = keras.initializers.get(down_initializer)
        self.up_initializer = keras.initializers.get(up_initializer)
        self.supports_masking = True
        self.low_rank = None
        if rank is not None:
            self.low_rank = LowRank(rank, down_initializer, up_initializer, name="low_rank", dtype=self.dtype_policy)

    def build(self, input_shape):
        if len(input_shape) > self.num_activations:
            raise ValueError(
                f"Expected at most {self.num_activations} states (`num_activations`). Received: {len(input_shape)}"
            )
        self.gamma = self.add_weight(
            name="gamma",
            shape=(len(input_shape),),
            initializer=self.gamma_initializer,
            dtype=keras.backend.result_type(self.variable_dtype, "float32"),
            autocast=False,
        )
        if self.low_rank is not None:
            self.low_rank.build(input_shape)

    def call(self, states):
        gamma = ops.convert_to_tensor(self.gamma)
        return self.combine(gamma, states if self.low_rank is None else self.low_rank.project(states))

    def combine(self, gamma, terms, up=None):
        """Returns the weighted sum of `terms`: of states, or of what `low_rank.project` made of them.

        Args:
            gamma: Tensor of shape `(len(terms),)`, at least float32.
            terms: List of tensors.
            up: See `LowRank.combine`.
        """
        if self.low_rank is not None:
            return self.low_rank.combine(gamma, terms, up)
        return sum(gamma[j] * ops.cast(state, gamma.dtype) for j, state in enumerate(terms))

    def compute_output_spec(self, states):
        dtype = self.compute_dtype if self.low_rank else keras.backend.result_type(self.variable_dtype, "float32")
        return keras.KerasTensor(states[0].shape, dtype=dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "num_activations": self.num_activations,
            "rank": self.rank,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
            "down_initializer": keras.initializers.serialize(self.down_initializer),
            "up_initializer": keras.initializers.serialize(self.up_initializer),
            "dtype": dtype_with_quantized_sublayers(self),
        }
