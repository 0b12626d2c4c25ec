"""Residual weights in training: alpha scales kernels, and the gradient passes over kernels in place of the stream.

A join `y = alpha * f(x) + beta * x` costs its sum next to nothing, but the gradients of alpha and beta are `<dy, f(x)>`
and `<dy, x>`: passes over tensors of the batch. In a stack whose branches each begin with a norm and end in a kernel,
and whose last state is normalized, kernels have them too. `f(x) = h @ W`, so with `V = alpha * W`

    alpha * dalpha = <dy, alpha * f(x)> = <dV, V> =: g

and `dV` is made for the optimizer anyway. No norm sees how large the stream is: `<dx, x>` gets nothing from them, so
`<dx, x> = beta * <dy, x> = <dy, y> - g`, and after the last join it is zero. Hence, of join i,

    beta_i * dbeta_i = -(g_i + g_(i+1) + ... )

This is the gradient by `log(alpha_i) - log(beta_0) - ... - log(beta_i)` of weights that scale `W_i` alone, as in what
`keras_laurel.fold` makes. A norm with an epsilon does see it: what that adds to `<dx, x>`, about
`epsilon / (mean square + epsilon)` of the gradient that reaches the norm, is neglected.
"""

import keras
from keras import ops

from keras_laurel.layers.explicit_gradient import plus_scaled
from keras_laurel.layers.residual_weights import alpha_beta


def pay():
    """Whether scaled kernels cost less than joins here, which JAX makes as cheap or cheaper on CPUs and TPUs.

    `benchmarks/README.md` has the figures.
    """
    if keras.backend.backend() != "jax":
        return True
    from keras_laurel.layers.jax_gradient import on_gpu

    return on_gpu()


class ScaledKernels:
    """The residual weights of a stack of joins, for one step of training.

    Args:
        joins: List of the joins of a whole stack, built `Laurel` layers of which `are_scalars` is true.
    """

    def __init__(self, joins):
        weights = joins[0].residual_weights
        logits = ops.stack([ops.convert_to_tensor(join.residual_weights.logits) for join in joins], axis=-1)
        alphas, betas = alpha_beta(weights.form, weights.scale, logits)
        log_scales = ops.log(alphas) - ops.cumsum(ops.log(betas))
        ones = ops.exp(log_scales - ops.stop_gradient(log_scales))  # whose gradient is that of the logarithm
        self._scales = iter(ops.unstack(ops.stop_gradient(alphas) * ones))
        self._betas = iter(ops.unstack(ops.stop_gradient(betas)))

    def next(self):
        """Returns two functions for the next join, which together compute it.

        Returns:
            The function of the branch's last layer and its input in place of the layer's call, and the function of the
            stream and what the branch then returns in place of the join's.
        """
        scale, beta = next(self._scales), next(self._betas)

        def project(layer, x):
            kernel, *bias = (ops.cast(weight, layer.compute_dtype) for weight in _SCALED(scale, layer=layer))
            x = ops.cast(x, layer.compute_dtype)
            y = ops.einsum(layer.equation, x, kernel) if hasattr(layer, "equation") else ops.matmul(x, kernel)
            return ops.add(y, bias[0]) if bias else y

        def join(x, fx):
            y = plus_scaled(ops.cast(fx, beta.dtype), beta, x)
            if keras.backend.backend() == "jax":
                from keras_laurel.layers.jax_gradient import rounded

                return rounded(y, x.dtype)
            return ops.cast(y, x.dtype)

        return project, join


class _Scaled(keras.layers.Layer):
    """Scales the weights of a layer. It is a layer itself, as one without autocast reads weights before they round."""

    def call(self, scale, layer):
        weights = [layer.kernel] if layer.bias is None else [layer.kernel, layer.bias]
        return [scale * ops.convert_to_tensor(weight) for weight in weights]


_SCALED = _Scaled(autocast=False, name="scaled")  # one, as torch.compile does not follow how a layer is made
