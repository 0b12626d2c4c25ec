"""The gradient of a join under TensorFlow and PyTorch, written out for backends that compute one operation at a time.

Such a backend pays for each pass over a large tensor. Here the gradient of a scalar weight is a dot product, which
leaves no product to be summed up afterwards, and what low-rank maps add is added where the sum lies. As in
`jax_gradient`, the branch's output is not kept, nor is what a norm takes. `benchmarks/README.md` has what that gains.
"""

import keras
from keras import ops


def is_wanted(training):
    """Whether a join shall have the gradient of this module: in training, under PyTorch wherever there may be one.

    There a block that is computed again for its gradient does not know that it trains, and must keep the same tensors.
    """
    if keras.backend.backend() != "torch":
        return bool(training)
    import torch

    traced = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    exported = traced or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    return torch.is_grad_enabled() and not exported


def join(weights, tensors, gammas=(), downs=(), up=None, gain=None, epsilon=None, own_gradient=True):
    """Returns `y = sum_i weights[i] * tensors[i] + weights[1] * inner`, with a gain `... * gain * rms_norm(inner)`.

    `inner` is `sum_j projections[j] @ up_j`, where `projections[j]` is `tensors[j - maps] @ downs[j]`, or without maps
    `sum_j gammas[j] * tensors[j - num_gammas]`: the last tensors, and never the first. So the gradient of its weight
    follows from what is at hand, as in `jax_gradient`:

        <dy, tensors[0]> = (<dy, y> - sum_(i > 0) weights[i] * dweights[i]) / weights[0]

    Args:
        weights: List of scalar tensors of float32 or wider that weigh the first tensors; `None` is one. If the first
            is given, it is above zero, and all others are given.
        tensors: List of float tensors of shape `(batch, ..., dim)`: the branch's output and the states.
        gammas: List of scalar tensors of float32 or wider that weigh the last tensors within a norm.
        downs: List of `maps` tensors of shape `(dim, rank)`.
        up: Tensor of shape `(maps * rank, dim)`, the `up_j` below each other; `None` without maps.
        gain: Tensor of shape `(dim,)`, of float32 or wider; `None` without a norm.
        epsilon: The norm's, a number.
        own_gradient: If false, the same sum by plain operations.

    Returns:
        Tensor of the shape and dtype of `tensors[1]`.
    """
    factors = [*weights, *gammas, gain, up, *downs]
    terms = Terms([factor is not None for factor in factors], len(weights), len(gammas), epsilon)
    arguments = [*(factor for factor in factors if factor is not None), *tensors]
    if not own_gradient:
        return terms.forward(*arguments)[0]
    if keras.backend.backend() == "torch":
        from keras_laurel.layers.torch_function import Differentiable

        # torch.compile wants no argument twice.
        repeated = [any(argument is earlier for earlier in arguments[:i]) for i, argument in enumerate(arguments)]
        arguments = [argument.view_as(argument) if again else argument for argument, again in zip(arguments, repeated)]
        return Differentiable.apply(terms, *arguments)[0]
    import tensorflow as tf

    @tf.custom_gradient
    def differentiable(*arguments):
        y, *projections = terms.forward(*arguments)
        return y, lambda dy: terms.backward(arguments, y, projections, dy)

    return differentiable(*(tf.convert_to_tensor(argument) for argument in arguments))  # values, not variables


class Terms:
    """Computes a join and its gradient from a flat list: weights, gammas, gain, up, downs, tensors.

    Args:
        is_given: List of booleans, for each but the last: whether it is not `None`.
        num_weights, num_gammas: How many of them are weights and gammas.
        epsilon: See `join`.
    """

    def __init__(self, is_given, num_weights, num_gammas, epsilon):
        self.is_given = is_given
        self.num_weights = num_weights
        self.num_gammas = num_gammas
        self.epsilon = epsilon
        self.branch = sum(is_given)  # the place of the branch's output among the tensors

    def forward(self, *arguments):
        """Returns `y` and the projections."""
        weights, gammas, gain, up, downs, tensors = self._parts(arguments)
        projections = [ops.matmul(x, down) for x, down in zip(tensors[len(tensors) - len(downs) :], downs)]
        total = None
        for weight, x in zip(weights, tensors):
            total = plus_scaled(total, weight, x)
        if gain is not None:
            inner = _inner(gammas, up, tensors, projections)
            total = plus_scaled(total, _times(weights[1], gain), ops.rms_normalization(inner, epsilon=self.epsilon))
        elif downs:
            total = _plus_product(total, weights[1], _joined(projections), up)
        return ops.cast(total, tensors[1].dtype), *projections

    def backward(self, arguments, y, projections, dy, dprojections=None):
        """Returns the gradients of the arguments.

        Args:
            arguments: What `forward` took; of the branch's output the dtype is enough.
            y: What it returned.
            projections: What it returned.
            dy: Gradient of `y`.
            dprojections: List of the projections' own gradients, for a gradient of the gradient; `None` for zero.
        """
        weights, gammas, gain, up, downs, tensors = self._parts(arguments)
        wide = ops.cast(dy, _wide(dy))
        dtensors = [plus_scaled(None, weight, dy) for weight in weights] + [None] * (len(tensors) - len(weights))
        dweights = [None if weight is None else _dot(wide, x) for weight, x in zip(weights[1:], tensors[1:])]
        # Without a norm, beta is multiplied where the tensors are smallest.
        dinner, beta, dgain = dy, weights[1], []
        if gain is not None:
            inner = _inner(gammas, up, tensors, projections)
            dinner, dfactor = _norm_gradient(inner, _times(weights[1], gain), wide, self.epsilon)
            dgain = [_times(weights[1], dfactor)]
            if beta is not None:
                dweights[0] += ops.sum(gain * dfactor)
                beta = None
        dgammas, dup, ddowns = [], [], []
        for j, gamma in enumerate(gammas):
            at = len(tensors) - len(gammas) + j
            dgammas.append(_dot(dinner, tensors[at]))
            dtensors[at] = plus_scaled(dtensors[at], gamma, dinner)
        if downs:
            left, dinner = _joined(projections), ops.cast(dinner, dy.dtype)
            dleft = ops.matmul(dinner, ops.transpose(up))
            dup = ops.matmul(ops.transpose(_rows(left)), _rows(dinner))
            if beta is not None:
                dweights[0] += _dot(ops.cast(dleft, wide.dtype), left)
                dleft, dup = (ops.cast(beta * ops.cast(part, wide.dtype), part.dtype) for part in (dleft, dup))
            dup = [dup]
            for j, dprojection in enumerate(ops.split(dleft, len(downs), axis=-1)):
                if dprojections is not None and dprojections[j] is not None:
                    dprojection = dprojection + dprojections[j]
                at = len(tensors) - len(downs) + j
                ddowns.append(ops.matmul(ops.transpose(_rows(tensors[at])), _rows(dprojection)))
                dtensors[at] = _plus_product(dtensors[at], None, dprojection, ops.transpose(downs[j]))
        if weights[0] is not None:
            others = sum(weight * dweight for weight, dweight in zip(weights[1:], dweights) if weight is not None)
            dweights.insert(0, (_dot(wide, y) - others) / weights[0])
        dweights = [dweight for dweight in dweights if dweight is not None]
        dtensors = [ops.cast(dx, x.dtype) for dx, x in zip(dtensors, tensors)]
        return *dweights, *dgammas, *dgain, *dup, *ddowns, *dtensors

    def _parts(self, arguments):
        given = iter(arguments)
        factors = [next(given) if is_given else None for is_given in self.is_given]
        weights, factors = factors[: self.num_weights], factors[self.num_weights :]
        gammas, (gain, up, *downs) = factors[: self.num_gammas], factors[self.num_gammas :]
        return weights, gammas, gain, up, downs, list(given)


def _inner(gammas, up, tensors, projections):
    """Returns what the norm normalizes, in float32 or wider."""
    if projections:
        inner = ops.matmul(_joined(projections), up)
        return ops.cast(inner, _wide(inner))
    total = None
    for gamma, x in zip(gammas, tensors[len(tensors) - len(gammas) :]):
        total = plus_scaled(total, gamma, x)
    return total


def _norm_gradient(inner, factor, dy, epsilon):
    """Returns the gradients of `inner` and of `factor`, `(dim,)`, where `dy` is that of `factor * rms_norm(inner)`."""
    root = ops.rsqrt(ops.mean(ops.square(inner), axis=-1, keepdims=True) + epsilon)
    normalized = root * inner
    product = dy * normalized
    dfactor = ops.sum(_rows(product), axis=0)
    mean = ops.expand_dims(ops.matmul(product, factor), -1) / inner.shape[-1]
    return root * (factor * dy - mean * normalized), dfactor


def _times(scale, x):
    return x if scale is None else scale * x


def plus_scaled(total, weight, x):
    """Returns `total + weight * x` in float32 or wider; `None` is zero and one."""
    wide = ops.cast(x, _wide(x))
    if weight is None:
        return wide if total is None else total + wide
    if total is None:
        return weight * wide
    if keras.backend.backend() == "torch":
        import torch

        return torch.addcmul(total, weight, wide)
    return total + weight * wide


def _plus_product(total, scale, left, right):
    """Returns `total + scale * left @ right`; `None` is zero and one."""
    if total is None:
        return ops.matmul(left, right)
    if keras.backend.backend() == "torch" and total.dtype == left.dtype == right.dtype:
        import torch

        right = right if scale is None else scale * right
        return torch.addmm(_rows(total), _rows(left), right).reshape(total.shape)
    return plus_scaled(total, scale, ops.matmul(left, right))


def _joined(projections):
    return projections[0] if len(projections) == 1 else ops.concatenate(projections, axis=-1)


def _rows(x):
    return ops.reshape(x, (-1, x.shape[-1]))


def _dot(x, y):
    y = ops.cast(y, x.dtype)
    if keras.backend.backend() == "torch":
        return ops.dot(ops.reshape(x, (-1,)), ops.reshape(y, (-1,)))
    return ops.sum(x * y)


def _wide(x):
    return keras.backend.result_type(x.dtype, "float32")
