"""Residual weights in training, off the stream: they scale kernels, which are smaller, as in a folded model.

A join `x_(i+1) = alpha_i * f_i(x_i) + beta_i * (x_i + sum_j gamma_ij * h_ij(x_(i-j)))` passes over the stream for alpha
and beta, and again for their gradients. Where branches begin with a norm and end in a kernel, the stream may be kept in
units of its own instead. With `s_(i+1) = beta_i * s_i`, `s_0 = 1` and `x_i = s_i * y_i`,

    y_(i+1) = (alpha_i / s_(i+1)) * f_i(x_i) + y_i + sum_j gamma_ij * (s_(i-j) / s_i) * h_ij(y_(i-j))

which is the join without residual weights, of a branch whose last kernel is scaled; and as norms do not see how large
their inputs are, `f_i(x_i)` is what `f_i` makes of `y_i`, by a norm with `epsilon / s_i ** 2` in place of `epsilon`.
So a step costs what it costs without residual weights. `keras_laurel.fold` makes the same model for good.
Under PyTorch, whose norms take no tensor for an epsilon, joins have their own gradients.

The gradients of alpha and beta are those of the scales. That of the epsilons is neglected: it is about
`epsilon / (mean square + epsilon)` of the gradient that reaches the norm.

After `PERIOD` joins the stream goes back to its own units, so that no `s` leaves the range of floats. Gradients are
those of a stream that never does, which norms do not tell from it.
"""

import keras
from keras import ops

from keras_laurel.layers.residual_weights import alpha_beta

PERIOD = 8  # joins; all of their betas may be 0.005 before s ** 2 leaves the range of float32


class ScaledKernels:
    """The residual weights of a stack of joins, for one step of training.

    Args:
        joins: List of the joins of a whole stack, built `Laurel` layers that `suit`.
    """

    def __init__(self, joins):
        join, count = joins[0], len(joins)
        self.index = 0
        self.period = 1 if join.compute_dtype == "float16" else PERIOD  # float16 reaches too few units
        logits = ops.stack([ops.convert_to_tensor(join.residual_weights.logits) for join in joins], axis=-1)
        alphas, betas = alpha_beta(join.residual_weights.form, join.residual_weights.scale, logits)
        units = _units(ops.stop_gradient(betas), self.period)  # s
        # Of s, had the stream never gone back to its units; for gradients alone.
        logs = ops.pad(ops.cumsum(ops.log(betas)), (1, 0))
        self.kernel_scales = ops.unstack(_scale(alphas / units[1:], ops.log(alphas) - logs[1:]))
        self.skip_scales = ops.unstack(units[:-1] * ops.stop_gradient(betas))
        self.epsilon_scales = ops.unstack(1 / ops.square(units))
        self.gamma_scales = self.up_scales = self.gain_scales = [None] * count
        # A norm gets the sum in the stream's own units, and what it returns is converted.
        of_sum, log_of_sum = (1, 0) if join.norm else (units[:-1, None], logs[:-1, None])
        if join.norm:
            self.gain_scales = ops.unstack(_scale(1 / units[:-1], -logs[:-1]))
        if join.num_activations is not None:
            ages = range(join.num_activations)
            weighed = [[max(i - j, 0) if join.previous == "last" else 0 for j in ages] for i in range(count)]
            ratios = _scale(ops.take(units, weighed) / of_sum, ops.take(logs, weighed) - log_of_sum)
            self.gamma_scales = ops.unstack(ratios)
        elif join.norm:
            self.up_scales = ops.unstack(units[:-1])

    @staticmethod
    def suit(joins):
        """Whether `joins` can be taken."""
        if keras.backend.backend() == "torch" or not all(getattr(join, "can_scale_kernels", False) for join in joins):
            return False
        kinds = {
            (join.residual_weights.form, join.residual_weights.scale, join.num_activations, join.previous, join.norm)
            for join in joins
        }
        return len(kinds) == 1

    def normalize(self, norm, x):
        """Returns what the layer `norm` makes of the stream before the next join."""
        if self.index % self.period == 0:
            return norm(x)
        epsilon = norm.epsilon * self.epsilon_scales[self.index]
        if isinstance(norm, keras.layers.RMSNormalization):
            return ops.rms_normalization(x, norm.scale, norm.axis, epsilon)
        return ops.layer_normalization(x, norm.gamma, norm.beta, norm.axis, epsilon)

    def next(self):
        """Returns the `Scales` of the next join."""
        i = self.index
        self.index += 1
        is_last = self.index % self.period == 0
        skip = self.skip_scales[i] if is_last else None
        return Scales(self.kernel_scales[i], skip, self.gamma_scales[i], self.up_scales[i], self.gain_scales[i])


class Scales:
    """What a join and its branch take in place of alpha and beta.

    Attributes:
        kernel: Scalar tensor that scales the branch's last kernel.
        skip: Scalar tensor that multiplies the skip, and has no gradient; `None` for one.
        gamma: Tensor of the shape of the join's gamma, which multiplies it; `None` for one.
        up: Scalar tensor that multiplies the second factor of the join's map; `None` for one.
        gain: Scalar tensor that multiplies the gain of the join's norm; `None` for one.
    """

    def __init__(self, kernel, skip, gamma, up, gain):
        self.kernel = kernel
        self.skip = skip
        self.gamma = gamma
        self.up = up
        self.gain = gain

    def project(self, layer, x):
        """Returns what the branch's last `layer` makes of `x`, scaled."""
        kernel, *bias = (ops.cast(weight, layer.compute_dtype) for weight in _SCALED(self.kernel, layer=layer))
        x = ops.cast(x, layer.compute_dtype)
        y = ops.einsum(layer.equation, x, kernel) if hasattr(layer, "equation") else ops.matmul(x, kernel)
        return ops.add(y, bias[0]) if bias else y


def _units(betas, period):
    """Returns the products of the betas before each join, since the last multiple of `period`, and after the last."""
    count = betas.shape[0]
    segments = count // period + 1
    ones = ops.ones((segments * period - count,), betas.dtype)
    products = ops.cumprod(ops.reshape(ops.concatenate([betas, ones]), (segments, period)), axis=1)
    products = ops.concatenate([ops.ones((segments, 1), betas.dtype), products[:, :-1]], axis=1)
    return ops.reshape(products, (-1,))[: count + 1]


def _scale(value, log):
    """Returns `value`, whose gradient is that of `exp(log)`, to which it is proportional."""
    return ops.stop_gradient(value) * ops.exp(log - ops.stop_gradient(log))


class _Scaled(keras.layers.Layer):
    """Scales the weights of a layer. It is a layer itself, as one without autocast reads weights before they round."""

    def call(self, scale, layer):
        weights = [layer.kernel] if layer.bias is None else [layer.kernel, layer.bias]
        return [scale * ops.convert_to_tensor(weight) for weight in weights]


_SCALED = _Scaled(autocast=False, name="scaled")
