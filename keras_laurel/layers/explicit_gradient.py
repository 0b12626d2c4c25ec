"""The gradient of a join under TensorFlow and PyTorch, written out for backends that compute one operation at a time.

Such a backend pays for each pass over a large tensor. Here the gradient of a scalar weight is a dot product, which
leaves no product to be summed up afterwards, and what low-rank maps add is added where the sum lies. As in
`jax_gradient`, the branch's output is not kept. `benchmarks/README.md` has what that gains.
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


def join(weights, tensors, downs=(), up=None, own_gradient=True):
    """Returns `y = sum_i weights[i] * tensors[i] + weights[1] * sum_j projections[j] @ up_j`.

    `projections[j]` is `tensors[j - maps] @ downs[j]`: the last tensors are mapped, and never the first. So the
    gradient of its weight follows from what is at hand, as in `jax_gradient`:

        <dy, tensors[0]> = (<dy, y> - sum_(i > 0) weights[i] * dweights[i]) / weights[0]

    Args:
        weights: List of scalar tensors of float32 or wider that weigh the first tensors; `None` is one. If the first
            is given, it is above zero, and all others are given.
        tensors: List of float tensors of shape `(batch, ..., dim)`: the branch's output and the states.
        downs: List of `maps` tensors of shape `(dim, rank)`.
        up: Tensor of shape `(maps * rank, dim)`, the `up_j` below each other; `None` without maps.
        own_gradient: If false, the same sum by plain operations.

    Returns:
        Tensor of the shape and dtype of `tensors[1]`.
    """
    factors = [*weights, up, *downs]
    terms = Terms([factor is not None for factor in factors], len(weights))
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
    """Computes a join and its gradient from a flat list of tensors: `weights`, `up`, `downs`, `tensors`.

    Args:
        is_given: List of booleans, for each but the last: whether it is not `None`.
        num_weights: How many of them are weights.
    """

    def __init__(self, is_given, num_weights):
        self.is_given = is_given
        self.num_weights = num_weights
        self.branch = sum(is_given)  # the place of the branch's output among the tensors

    def forward(self, *arguments):
        """Returns `y` and the projections."""
        weights, up, downs, tensors = self._parts(arguments)
        projections = [ops.matmul(x, down) for x, down in zip(tensors[len(tensors) - len(downs) :], downs)]
        total = None
        for weight, x in zip(weights, tensors):
            total = _plus_scaled(total, weight, x)
        if downs:
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
        weights, up, downs, tensors = self._parts(arguments)
        wide = ops.cast(dy, _wide(dy))
        dtensors = [_plus_scaled(None, weight, dy) for weight in weights] + [None] * (len(tensors) - len(weights))
        dweights = [None if weight is None else _dot(wide, x) for weight, x in zip(weights[1:], tensors[1:])]
        dup, ddowns = [], []
        if downs:
            left = _joined(projections)
            dleft = ops.matmul(dy, ops.transpose(up))
            dup = ops.matmul(ops.transpose(_rows(left)), _rows(dy))
            if weights[1] is not None:
                dweights[0] += _dot(ops.cast(dleft, wide.dtype), left)
                dleft, dup = (ops.cast(weights[1] * ops.cast(part, wide.dtype), part.dtype) for part in (dleft, dup))
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
        return *dweights, *dup, *ddowns, *(ops.cast(dx, x.dtype) for dx, x in zip(dtensors, tensors))

    def _parts(self, arguments):
        given = iter(arguments)
        factors = [next(given) if is_given else None for is_given in self.is_given]
        weights, (up, *downs) = factors[: self.num_weights], factors[self.num_weights :]
        return weights, up, downs, list(given)


def _plus_scaled(total, weight, x):
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
    return _plus_scaled(total, scale, ops.matmul(left, right))


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
