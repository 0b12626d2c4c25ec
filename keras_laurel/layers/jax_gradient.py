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
from jax.ad_checkpoint import checkpoint_name


def join(skip, alpha, factors, fx, states, name):
    """Returns `y = alpha * fx + skip(factors, states)`.

    As `skip` is linear in beta, the gradient of alpha follows from what is at hand:

        <dy, fx> = (<dy, y> - <dy, skip>) / alpha,    <dy, skip> = beta * dbeta

    and `y` is kept by the next sublayer anyway, which `fx` is not.

    Args:
        skip: Function of `factors` and `states` that returns a tensor of the shape of `fx` in float32 or wider; with
            `beta_within=True` the same by an expression whose gradient costs less.
        alpha: Tensor above zero, a scalar or one that broadcasts to `fx`; `None` for one.
        factors: Tuple of what else the skip is made of: beta (like alpha), gamma (a vector), the norm's gain, the list
            of projections and `up`; `None` for what is not there.
        fx: Tensor, the branch's output.
        states: List of tensors of its shape; the first's dtype is that of `y`.
        name: String by which a policy of `jax.checkpoint` can have `y` kept. Computing it again takes the whole branch.

    Returns:
        Tensor of the shape of `fx`.
    """

    @jax.custom_vjp
    def differentiable(alpha, factors, fx, states):
        return forward(alpha, factors, fx, states)[0]

    def forward(alpha, factors, fx, states):
        y = (_wide(fx) if alpha is None else alpha * _wide(fx)) + skip(factors, states)
        y = rounded(y, states[0].dtype)
        # An empty tensor remembers the dtype of fx.
        return y, (alpha, factors, jnp.zeros(0, fx.dtype), states, None if alpha is None else checkpoint_name(y, name))

    def wide_skip(factors, states):
        # Keras takes the result of a float64 and a float32 for a float32.
        return skip(factors, states, beta_within=True).astype(_wide(states[0]).dtype)

    def backward(kept, dy):
        alpha, factors, of_fx, states, y = kept
        _, _, gain, projections, _ = factors
        if gain is not None and projections is not None:
            # The norm needs its input again. Apart from the forward pass, whose own the compiler would else keep.
            factors, dy = jax.lax.optimization_barrier((factors, dy))
        (alphas, factors), gather = jax.vjp(functools.partial(_for_each_example, dy.shape), alpha, factors)
        _, pull = jax.vjp(wide_skip, factors, states)
        dfactors, _ = pull(_wide(dy))
        dalphas = None
        if alphas is not None:
            axes = [axis for axis in range(1, y.ndim) if alphas.shape[axis] == 1]
            dalphas = jnp.sum(_wide(dy) * _wide(y), axes, keepdims=True)
            dalphas = ((dalphas - factors[0] * dfactors[0]) / alphas).astype(alphas.dtype)
        dy, dalphas, dfactors = jax.lax.optimization_barrier((dy, dalphas, dfactors))
        _, dstates = pull(_wide(dy))
        dfx = _wide(dy) if alpha is None else alpha * _wide(dy)
        return *gather((dalphas, dfactors)), dfx.astype(of_fx.dtype), dstates

    differentiable.defvjp(forward, backward)
    return differentiable(alpha, factors, fx, states)


def _for_each_example(shape, alpha, factors):
    """Returns alpha, beta, gamma and the gain once for each example of a batch of `shape`, ready to broadcast.

    So the sums that make their gradients leave the batch as it is, which may be divided over devices: the devices
    exchange theirs with all others at the end of the step, and not in each join.
    """
    beta, gamma, gain, *others = factors
    batch, ones = shape[0], (1,) * (len(shape) - 1)

    def each(weight):
        return None if weight is None else jnp.broadcast_to(weight, (batch, *(weight.shape[1:] or ones)))

    if gamma is not None:
        gamma = jnp.broadcast_to(gamma.reshape(-1, 1, *ones), (gamma.size, batch, *ones))
    if gain is not None:
        gain = jnp.broadcast_to(gain, (batch, *ones[1:], gain.size))
    return each(alpha), (each(beta), gamma, gain, *others)


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


def rounded(y, dtype):
    """Returns `y` in `dtype`, which XLA for GPUs must not take for nothing where it widens it again.

    It else keeps and passes on a stream of sequences in float32, twice as wide, as the norm and the join that follow
    compute in float32. The activation that follows in a network for images does not, and goes better without a barrier.
    """
    y = y.astype(dtype)
    return jax.lax.optimization_barrier(y) if on_gpu() and y.ndim == 3 and y.dtype.itemsize < 4 else y


def on_gpu():
    """Whether JAX computes on a GPU."""
    return jax.devices()[0].platform in ("gpu", "cuda", "rocm")


def _wide(x):
    return x.astype(jnp.promote_types(x.dtype, "float32"))
