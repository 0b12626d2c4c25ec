"""Wrapped blocks in the loops of a model's own code, as keras_hub's models decode with a cache."""

from keras import ops

from keras_laurel.retrofit.wrapper import block_signature


def looped(blocks, wrappers, plan, name):
    """Returns what takes the place of `blocks` in a loop `for block in blocks: x = block(x, ...)`.

    Such a loop hands on just the stream. Where wrapped blocks take earlier states, these ride in its channels from
    block to block: `x` becomes `[x, *previous]` in between. So nothing is kept between calls, and the last block
    returns the stream alone.

    Args:
        blocks: List of layers, some of which are wrapped.
        wrappers: Dictionary of the `id` of a block to its `LaurelWrapper`.
        plan: The `Plan` of the model.
        name: Name of the model's attribute that holds the list.

    Returns:
        List of callables: wrappers, and `Carrying` where states ride along.

    Raises:
        ValueError: If a block takes the state of a join that is not right before it in the list.
    """
    places = {id(place.call.operation): place for place in plan.places.values()}
    wrapped = [wrappers.get(id(block), block) for block in blocks]
    num_previous = [getattr(block, "num_previous", 0) for block in wrapped]
    for i, block in enumerate(blocks):
        before = places.get(id(blocks[i - 1])) if i else None
        if num_previous[i] and (before is None or places[id(block)].states[-1] is not before.x):
            raise ValueError(
                "Expected blocks that take earlier states to follow a wrapped block in the list that their model "
                f"keeps them in. Received: block '{block.name}' in `{name}`; let `wrap` meet the block before it too, "
                "or use a `residual` without 'pa'"
            )
    ends = [*num_previous[1:], 0]
    return [
        Carrying(block, num_in, num_out) if num_in or num_out else block
        for block, num_in, num_out in zip(wrapped, num_previous, ends)
    ]


class Carrying:
    """Calls a wrapped block on a stream with `num_in` earlier states in its channels; returns one with `num_out`."""

    def __init__(self, block, num_in, num_out):
        self.block = block
        self.num_in = num_in
        self.num_out = num_out

    def __call__(self, *args, **kwargs):
        call = block_signature(self.block.layer).bind(*args, **kwargs)
        name, stream = next(iter(call.arguments.items()))
        x, *previous = ops.split(stream, 1 + self.num_in, axis=-1)
        call.arguments.update({name: x, "previous": previous})
        outputs = self.block(*call.args, **call.kwargs)
        y, *rest = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        states = [*previous, x] if self.block.join.previous == "first" else [x, *previous]
        y = ops.concatenate([y, *states[: self.num_out]], axis=-1)
        return (y, *rest) if rest else y
