"""The learned augmented residual join: the one equation of the package."""

from typing import Any

import keras
from keras import ops

from keras_laurel.layers import explicit_gradient
from keras_laurel.layers.low_rank import LowRank, is_zeros, positive_integer
from keras_laurel.layers.previous_activations import PreviousActivations
from keras_laurel.layers.quantization import dtype_with_quantized_sublayers
from keras_laurel.layers.residual_weights import ResidualWeights


@keras.saving.register_keras_serializable(package="keras_laurel")
class Laurel(keras.layers.Layer):
    """Joins a branch to a residual stream by LAuReL, in place of `x + f(x)`.

        y = alpha * f(x) + beta * (x + norm(sum_j gamma[j] * h_j(x_j)))

    `x_0` is `x`, the join's input, and `x_1 ... x_{k-1}` are the inputs of the joins before it, newest first.
    Every part is off until asked for, so `Laurel()` is `x + f(x)`:

    | part (the paper's name) | turned on by | new weights |
    |---|---|---|
    | residual weights `alpha`, `beta` (RW) | `residual_weights=` | 2 (`"single"`: 1), times `dim` if `per_channel` |
    | low-rank map, `h_0(x) = x @ down @ up` (LR) | `rank=r` | 2 r dim |
    | previous activations, `gamma` (PA), `h_j` the identity | `num_activations=k` | k |
    | both, each `h_j` a low-rank map of its own | `rank=r, num_activations=k` | 2 r k dim + k |
    | root mean square norm with a gain | `norm="rms"` | dim |

    **A new layer returns `x + f(x)`** (unless `scale` differs from 2), bit for bit in float32: `alpha` and `beta`
    start at one, and of the factors of the sum just the last (the gain, else `up`, else `gamma`) starts at zero.

    The layer is stateless: earlier states come as inputs, which `keras_laurel.History` collects. `alpha`, `beta`,
    `gamma`, the norm and the sum are computed in float32 (in float64 under that policy on TensorFlow; Keras narrows
    it elsewhere) and cast once.

    Args:
        residual_weights: Form of alpha and beta, `"softmax"`, `"sigmoid"`, `"single"` or `"free"`: see
            `ResidualWeights`. `None` leaves both at one.
        scale: Sum of alpha and beta at start. 2.0 starts at the plain residual; 1.0 is the paper's literal form.
        per_channel: If true, alpha and beta are vectors over the channels.
        rank: Positive integer below `dim`, the rank of the low-rank maps, or `None`.
        num_activations: Positive integer k, how many states to weigh, the join's own among them, or `None`.
        previous: `"last"` weighs the last k states; `"first"` weighs just the stack's first one (`x` itself in the
            stack's first join) and wants `num_activations=1`.
        norm: `"rms"` normalizes the sum by its root mean square over the channels, or `None`. With `rank` it is
            the LAuReL block of Gemma 3n.
        norm_epsilon: Positive float, added to the mean square.
        down_initializer: Initializer of `down`, see `LowRank`.
        up_initializer: Initializer of `up`. Defaults to `"zeros"`, with a norm to `"glorot_uniform"`.
        drop_path: Float in [0, 1), the rate at which training drops the branch of an example (stochastic depth) and
            scales the other branches by `1 / (1 - drop_path)`.
        seed: Optional integer seed of `drop_path`.
        axis: Integer, the channel axis; 1 for `channels_first` images.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: List `[x, fx, *previous]` of two or more float tensors of one shape `(batch, ..., dim)`. `previous`
            is newest first, has at most k - 1 states (at most one, the first, for `previous="first"`), and as many
            in every call as in the first.
        training: Boolean, turns `drop_path` on.
        projections: List of `state_j @ down_j`, of the stream and of as many earlier states as the layer was built
            with, where they have been made already; `inputs` are then `[x, fx]`. Of joins with a rank alone.
        scales: What stands in for alpha and beta in a step of training, as the decoder makes it: an object with `skip`
            in place of beta, and `gamma`, `up` and `gain`, which multiply the join's own; tensors, or `None` for one.

    Returns:
        Tensor of the shape of `x`, in the compute dtype.

    Raises:
        ValueError: If an argument is out of its range, if `norm="rms"` has nothing to normalize or meets `up` (or
            `down`) of zeros, whose first gradient it would multiply by `1 / sqrt(norm_epsilon)`; on a call with a
            wrong number of inputs, unequal shapes, or an unknown or too small `dim`.

    Example:
    >>> x, fx = np.random.normal(size=(2, 4, 8)).astype("float32")
    >>> join = keras_laurel.Laurel(residual_weights="softmax", rank=2)
    >>> y = join([x, fx])
    >>> np.array_equal(ops.convert_to_numpy(y), x + fx), join.count_params()
    (True, 34)

    Reference:
        [Menghani et al., 2025](https://arxiv.org/abs/2411.07501), section 2
    """

    def __init__(
        self,
        residual_weights=None,
        scale=2.0,
        per_channel=False,
        rank=None,
        num_activations=None,
        previous="last",
        norm=None,
        norm_epsilon=1e-6,
        down_initializer="glorot_uniform",
        up_initializer=None,
        drop_path=0.0,
        seed=None,
        axis=-1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if previous not in ("last", "first"):
            raise ValueError(f"Expected `previous` to be 'last' or 'first'. Received: previous={previous!r}")
        if previous == "first" and num_activations != 1:
            raise ValueError(
                "Expected `num_activations=1` with `previous='first'`, which weighs one state. "
                f"Received: num_activations={num_activations}"
            )
        if norm not in (None, "rms"):
            raise ValueError(f"Expected `norm` to be None or 'rms'. Received: norm={norm!r}")
        if norm and rank is None and num_activations is None:
            raise ValueError(
                "Expected `rank` or `num_activations` with `norm`, which has nothing else to normalize. "
                "Received: rank=None, num_activations=None"
            )
        if not norm_epsilon > 0:
            raise ValueError(f"Expected a positive `norm_epsilon`. Received: norm_epsilon={norm_epsilon}")
        if not 0 <= drop_path < 1:
            raise ValueError(f"Expected `drop_path` in [0, 1). Received: drop_path={drop_path}")
        if not isinstance(axis, int) or axis == 0:
            raise ValueError(f"Expected `axis` to be an integer other than 0, the batch axis. Received: axis={axis}")
        self.previous = previous
        self.norm = norm
        self.norm_epsilon = norm_epsilon
        self.down_initializer = keras.initializers.get(down_initializer)
        self.up_initializer = keras.initializers.get(up_initializer or ("glorot_uniform" if norm else "zeros"))
        self.drop_path = drop_path
        self.seed = seed
        self.axis = axis
        self.scale = scale
        self.per_channel = per_channel
        self.rank = None if rank is None else positive_integer("rank", rank)
        self.num_activations = num_activations
        if num_activations is not None:
            self.num_activations = positive_integer("num_activations", num_activations)
        self.supports_masking = True

        if norm and rank is not None and (is_zeros(self.down_initializer) or is_zeros(self.up_initializer)):
            raise ValueError(
                "Expected initializers other than zeros with `norm='rms'`: the norm would multiply the first gradient "
                f"of a map that is zero by 1 / sqrt({norm_epsilon}). Its gain starts at zero instead. "
                f"Received: down_initializer={down_initializer!r}, up_initializer={up_initializer!r}"
            )
        self.residual_weights = self.gain = self.branch_dropout = None
        self.augmentation: Any = None
        if residual_weights is not None:
            self.residual_weights = ResidualWeights(
                residual_weights, scale, per_channel, name="residual_weights", dtype=self.dtype_policy
            )
        if num_activations is not None:
            self.augmentation = PreviousActivations(
                num_activations,
                rank,
                gamma_initializer="ones" if norm or rank is not None else "zeros",
                down_initializer=self.down_initializer,
                up_initializer=self.up_initializer,
                name="previous_activations",
                dtype=self.dtype_policy,
            )
        elif rank is not None:
            self.augmentation = LowRank(
                rank, self.down_initializer, self.up_initializer, name="low_rank", dtype=self.dtype_policy
            )

    @property
    def max_previous(self):
        """How many earlier states a call takes at most."""
        if self.num_activations is None:
            return 0
        return 1 if self.previous == "first" else self.num_activations - 1

    def build(self, input_shape):
        self._check(input_shape)
        self.num_inputs = len(input_shape)
        shape = tuple(input_shape[0])
        if not -len(shape) < self.axis < len(shape):
            raise ValueError(f"Expected inputs with a channel axis {self.axis}. Received: shape={shape}")
        dim = shape[self.axis]
        if dim is None and (self.per_channel or self.norm or self.rank is not None):
            raise ValueError(f"Expected a known number of channels (axis {self.axis}). Received: shape={shape}")
        axis = self.axis % len(shape)
        channels_last = (*shape[:axis], *shape[axis + 1 :], dim)
        if self.residual_weights is not None:
            self.residual_weights.build(channels_last)
        if self.augmentation is not None:
            num_states = self.num_inputs - 1 if self.previous == "last" else 1
            self.augmentation.build([channels_last] * num_states)
        if self.norm:
            self.gain = self.add_weight(
                name="gain", shape=(dim,), initializer="zeros", dtype=_wide(self.variable_dtype), autocast=False
            )
        if self.drop_path:
            noise_shape = (None,) + (1,) * (len(shape) - 1)
            self.branch_dropout = keras.layers.Dropout(
                self.drop_path, noise_shape, self.seed, name="drop_path", dtype=_wide(self.compute_dtype)
            )

    def call(self, inputs, training=None, projections=None, scales=None):
        shapes = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), inputs)
        self._check(shapes, self.num_inputs if projections is None else 2)
        wanted = 0 if self._low_rank is None else len(self._low_rank.downs)
        if projections is not None and len(projections) != wanted:
            raise ValueError(f"Expected {wanted} projections, as many as maps. Received: {len(projections)}")
        x, fx, *previous = inputs
        is_weighed = self.residual_weights is not None and scales is None
        if not is_weighed and self.augmentation is None and self.branch_dropout is None:
            if scales is not None and scales.skip is not None:
                fx = ops.cast(fx, scales.skip.dtype)
                return ops.cast(explicit_gradient.plus_scaled(fx, scales.skip, x), self.compute_dtype)
            return ops.add(x, fx)
        dtype = _wide(self.compute_dtype)
        if self.branch_dropout is not None:
            fx = self.branch_dropout(ops.cast(fx, dtype), training=training)
        alpha, beta = self.alpha_beta(len(x.shape)) if is_weighed else (None, scales and scales.skip)
        own = self._own_factors(scales)
        states = [x, *previous]
        if training and self._has_jax_gradient:
            from keras_laurel.layers import jax_gradient

            factors = self._factors(own, states, jax_gradient.matmul, projections)
            return jax_gradient.join(self._skip, alpha, (beta, *factors), fx, states, self.path)
        if self._has_explicit_gradient and projections is None:
            own_gradient = explicit_gradient.is_wanted(training)
            return explicit_gradient.join(**self._terms(alpha, beta, own, fx, states), own_gradient=own_gradient)
        skip = self._skip((beta, *self._factors(own, states, projections=projections)), states)
        fx = ops.cast(fx, dtype)
        return ops.cast((fx if alpha is None else alpha * fx) + skip, self.compute_dtype)

    @property
    def _has_jax_gradient(self):
        """Whether `jax_gradient` can differentiate the join: alpha is above zero, and no factor is quantized."""
        return keras.backend.backend() == "jax" and self._is_bounded and not self._is_quantized

    @property
    def _has_explicit_gradient(self):
        """Whether `explicit_gradient` can differentiate the join, whose weights are scalars and whose maps are last."""
        if keras.backend.backend() not in ("tensorflow", "torch") or self.axis != -1 or self.per_channel:
            return False
        return self._is_bounded and not self._is_quantized

    @property
    def _is_bounded(self):
        return self.residual_weights is None or self.residual_weights.form != "free"

    @property
    def _is_quantized(self):
        low_rank = self._low_rank
        return low_rank is not None and any(layer.quantization_mode for layer in (*low_rank.downs, low_rank.up))

    @property
    def _low_rank(self):
        if isinstance(self.augmentation, PreviousActivations):
            return self.augmentation.low_rank
        return self.augmentation

    def _skip(self, factors, states, beta_within=False):
        """Returns `beta * (x + norm(sum_j gamma[j] * h_j(x_j)))` in float32 or wider; `factors` begins with beta.

        With `beta_within`, beta is multiplied where the tensors are smallest. The value then rounds more in half
        precision, but its gradient needs less.
        """
        beta, *factors = factors
        x = ops.cast(states[0], _wide(self.compute_dtype))
        beta_within = beta_within and beta is not None and not self.per_channel
        skip = beta * x if beta_within else x
        if self.augmentation is not None:
            skip = skip + self._augment(beta if beta_within else None, factors, states)
        return skip if beta is None or beta_within else beta * skip

    def augment(self, x, previous):
        """Returns `norm(sum_j gamma[j] * h_j(x_j))` in float32 or wider; zero without a map or previous activations."""
        states = [x, *previous]
        if self.augmentation is None:
            return 0.0
        return self._augment(None, self._factors(self._own_factors(), states), states)

    @property
    def can_scale_kernels(self):
        """Whether a decoder can train the join by `scales`, which alpha and beta allow that are bounded scalars."""
        are_scalars = self.residual_weights is not None and not self.per_channel and self._is_bounded
        return are_scalars and not self.drop_path and not self._is_quantized and self.axis == -1

    @property
    def projects_ahead(self):
        """Whether `keras_laurel.history.ProjectionsAhead` can make the projections of earlier states in training."""
        weighs_earlier = self.num_activations not in (None, 1) and self.previous == "last"
        return self._has_jax_gradient and weighs_earlier and self._low_rank is not None and self.axis == -1

    def _own_factors(self, scales=None):
        """Returns gamma, the norm's gain and `up` as tensors, times `scales`; `None` for what is not there."""

        def scaled(weight, scale):
            tensor = ops.convert_to_tensor(weight)
            return tensor if scale is None else ops.cast(scale * ops.cast(tensor, scale.dtype), tensor.dtype)

        gamma = gain = up = None
        if self.num_activations is not None:
            gamma = scaled(self.augmentation.gamma, scales and scales.gamma)
        if self.norm:
            gain = scaled(self.gain, scales and scales.gain)
        if self._low_rank is not None and not self._is_quantized:
            up = scaled(self._low_rank.up.kernel, scales and scales.up)
        return gamma, gain, up

    def _factors(self, own, states, matmul=None, projections=None):
        """Returns what the sum is made of besides the states: gamma, the gain, projections, `up`; `None` if not there.

        With a `matmul`, the projections are made by it, and `up` is a tensor to multiply with.
        """
        gamma, gain, up = own
        if self._low_rank is not None and projections is None:
            projections = self._low_rank.project(self._weighed(states), matmul)
        return gamma, gain, projections, None if matmul is None else up

    def _augment(self, beta, factors, states):
        """Returns `norm(sum_j gamma[j] * h_j(x_j))`, times the scalar `beta` unless that is `None`."""
        gamma, gain, projections, up = factors
        if beta is not None and self.norm:
            gain = beta * gain
        elif beta is not None:
            gamma = [beta] if gamma is None else beta * gamma
        terms = self._weighed(states) if projections is None else projections
        total = ops.cast(self.augmentation.combine(gamma, terms, up), _wide(self.compute_dtype))
        if self.norm:
            total = gain * ops.rms_normalization(total, epsilon=self.norm_epsilon)
        return total if self.axis == -1 else ops.moveaxis(total, -1, self.axis)

    def _terms(self, alpha, beta, own, fx, states):
        """Returns the keyword arguments of `explicit_gradient.join`."""
        terms: Any = {"weights": [alpha, beta], "tensors": [fx, *states]}
        gamma, gain, up = own
        if self.norm:
            terms |= {"gain": gain, "epsilon": self.norm_epsilon}
        low_rank = self._low_rank
        if low_rank is not None:
            downs = [ops.convert_to_tensor(down.kernel) for down in low_rank.downs]
            if gamma is not None:
                maps = ops.reshape(up, (len(downs), self.rank, -1))
                up = ops.reshape(ops.cast(gamma[:, None, None] * ops.cast(maps, gamma.dtype), up.dtype), up.shape)
            return {**terms, "downs": downs, "up": up}
        if gamma is None:
            return terms
        if self.norm:
            return {**terms, "gammas": [gamma[j] for j in range(gamma.shape[0])]}
        gamma = [gamma[j] if beta is None else beta * gamma[j] for j in range(gamma.shape[0])]
        if self.previous == "first" and len(states) == 2:
            return {**terms, "weights": [alpha, beta, *gamma]}
        return {**terms, "weights": [alpha, gamma[0] + (1.0 if beta is None else beta), *gamma[1:]]}

    def _weighed(self, states):
        """Returns the states that are weighed, channels last."""
        states = states[-1:] if self.previous == "first" else states
        return states if self.axis == -1 else [ops.moveaxis(state, self.axis, -1) for state in states]

    def alpha_beta(self, ndim):
        """Returns alpha and beta as they multiply inputs of `ndim` dimensions; ones without residual weights."""
        if self.residual_weights is None:
            return 1.0, 1.0
        alpha, beta = self.residual_weights.alpha_beta()
        if self.per_channel:
            shape = [1] * ndim
            shape[self.axis] = -1
            alpha, beta = ops.reshape(alpha, shape), ops.reshape(beta, shape)
        return alpha, beta

    def _check(self, shapes, num_inputs=None):
        """Raises a `ValueError` unless `shapes` are those of `[x, fx, *previous]`."""
        most = 2 + self.max_previous
        expected = "Expected a list `[x, fx, *previous]` of " if most > 2 else "Expected a list `[x, fx]` of "
        if not isinstance(shapes[0], (list, tuple)):
            raise ValueError(f"{expected}tensors. Received: one tensor of shape {shapes}")
        if num_inputs and len(shapes) != num_inputs:
            raise ValueError(f"{expected}{num_inputs} tensors, as in the first call. Received: {len(shapes)} tensors")
        if not 2 <= len(shapes) <= most:
            count = "2" if most == 2 else f"2 to {most}"
            raise ValueError(f"{expected}{count} tensors. Received: {len(shapes)} tensors")
        for shape in shapes:
            unequal = any(a != b and None not in (a, b) for a, b in zip(shape, shapes[0]))
            if len(shape) != len(shapes[0]) or unequal:
                raise ValueError(f"Expected inputs of one shape. Received: shapes={[tuple(shape) for shape in shapes]}")

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def compute_mask(self, inputs, mask=None):
        """Joins the masks of `x` and `fx` as `keras.layers.Add` does: none if either is missing, else their union."""
        if mask is None or mask[0] is None or mask[1] is None:
            return None
        return ops.logical_or(mask[0], mask[1])

    def get_config(self):
        return {
            **super().get_config(),
            "residual_weights": self.residual_weights and self.residual_weights.form,
            "scale": self.scale,
            "per_channel": self.per_channel,
            "rank": self.rank,
            "num_activations": self.num_activations,
            "previous": self.previous,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "down_initializer": keras.initializers.serialize(self.down_initializer),
            "up_initializer": keras.initializers.serialize(self.up_initializer),
            "drop_path": self.drop_path,
            "seed": self.seed,
            "axis": self.axis,
            "dtype": dtype_with_quantized_sublayers(self),
        }


def _wide(dtype):
    """Returns float32, or `dtype` where that is wider."""
    return keras.backend.result_type(dtype, "float32")
