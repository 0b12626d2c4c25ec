"""A join as a function of PyTorch with a gradient of its own."""

import torch


class Differentiable(torch.autograd.Function):
    """Returns `y` and the projections of `terms.forward`. See `keras_laurel.layers.explicit_gradient`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(terms, *arguments):
        return terms.forward(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.terms, *arguments = inputs
        ctx.num_outputs = len(output)
        branch = arguments[ctx.terms.branch]
        arguments[ctx.terms.branch] = branch.new_empty(0)  # only its dtype is wanted
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output, *arguments)

    @staticmethod
    def backward(ctx, dy, *dprojections):
        y, *saved = ctx.saved_tensors
        if dy is None:  # the gradient of a gradient may want that of the projections alone
            dy = torch.zeros_like(y)
        projections, arguments = saved[: ctx.num_outputs - 1], saved[ctx.num_outputs - 1 :]
        return None, *ctx.terms.backward(arguments, y, projections, dy, dprojections)
