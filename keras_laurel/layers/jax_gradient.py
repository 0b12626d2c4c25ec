"""The gradient of a join under JAX: it keeps nothing that is not kept anyway, and puts nothing off.

Plain differentiation costs a join of two scalars a third of a decoder's memory on TPU: it keeps the branch's output for
the gradient of alpha, and the compiler puts the sums that make the gradients of the join's weights off until the
optimizer asks for them, with the large tensors that they are made of. Here a barrier has the sums made before the
gradient goes on. `benchmarks/README.md` has what that gains.

These gradients have no forward mode (`jax.jvp`, `jax.hessian`). Joins use them in training only (`training=True`).
"""

import functools

import jax
import jax.numpy as jnp


def join(skip, alpha, factors, fx, states):
    """Returns `y = alpha * fx + skip(factors, states)`.

    As `skip` is linear in beta, the gradient of alpha follows from what is at hand:

        <dy, fx> = (<dy, y> - <dy, skip>) / alpha,    <dy, skip> = beta * dbeta

    and `y` is kept by the next sublayer anyway, which `fx` is not.

    Args:
        skip: Function of `factors` and `states` that returns a tensor of the shape of `fx` in float32 or wider; with
            `beta_within=True` the same by an expression whose gradient costs less.
        alpha: Tensor above zero, a scalar or one that broadcasts to `fx`; `None` for one.
        factors: Tuple of small tensors, beta the first (`None` only where alpha is), of lists of them and of `None`.
        fx: Tensor, the branch's output.
        states: List of tensors of its shape; the first's dtype is that of `y`.

    Returns:
        Tensor of the shape of `fx`.
    """

    @jax.custom_vjp
    def differentiable(alpha, factors, fx, states):
        return forward(alpha, factors, fx, states)[0]

    def forward(alpha, factors, fx, states):
        y = (_wide(fx) if alpha is None else alpha * _wide(fx)) + skip(factors, states)
        y = y.astype(states[0].dtype)
        # An empty tensor remembers the dtype of fx.
        return y, (alpha, factors, jnp.zeros(0, fx.dtype), states, None if alpha is None else y)

    def backward(kept, dy):
        alpha, factors, of_fx, states, y = kept
        _, pull = jax.vjp(functools.partial(skip, beta_within=True), factors, states)
        dfactors, _ = pull(_wide(dy))
        dalpha = None
        if alpha is not None:
            axes = [axis for axis in range(y.ndim) if not alpha.ndim or alpha.shape[axis] == 1]
            dalpha = jnp.sum(_wide(dy) * _wide(y), axes, keepdims=alpha.ndim > 0)
            dalpha = (dalpha - factors[0] * dfactors[0]) / alpha
        dy, dalpha, dfactors = jax.lax.optimization_barrier((dy, dalpha, dfactors))
        _, dstates = pull(_wide(dy))
        dfx = _wide(dy) if alpha is None else alpha * _wide(dy)
        return dalpha, dfactors, dfx.astype(of_fx.dtype), dstates

    differentiable.defvjp(forward, backward)
    return differentiable(alpha, factors, fx, states)


def matmul(x, kernel):
    """Returns `x @ kernel`; the gradient of `kernel` is made before that of `x` goes on."""

    def forward(x, kernel):
        return jnp.matmul(x, kernel), (x, kernel)

    def backward(kept, dy):
        _, pull = jax.vjp(jnp.matmul, *kept)
        _, dkernel = pull(dy)
        dy, dkernel = jax.lax.optimization_barrier((dy, dkernel))
        dx, _ = pull(dy)
        return dx, dkernel

    differentiable = jax.custom_vjp(jnp.matmul)
    differentiable.defvjp(forward, backward)
    return differentiable(x, kernel)


def _wide(x):
    return x.astype(jnp.promote_types(x.dtype, "float32"))
