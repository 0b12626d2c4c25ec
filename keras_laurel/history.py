"""What carries the states of a residual stream from join to join."""

from typing import Any

from keras import ops


class History:
    """Hands each join of a stack the states before its own.

    `history.join(layer, x, fx)` takes the place of `x + fx`. The helper is stateless in the sense that matters:
    make one where the stack begins, in a functional model or in a layer's `call`, and let it go where the stack ends.
    It starts anew by itself where the shape of the stream changes.

    Example:
    >>> inputs = x = keras.Input((8,))
    >>> history = keras_laurel.History()
    >>> for _ in range(4):
    ...     x = history.join(keras_laurel.LaurelPA(num_activations=3), x, keras.layers.Dense(8, "relu")(x))
    >>> model = keras.Model(inputs, x)
    >>> [layer.num_inputs for layer in model.layers if isinstance(layer, keras_laurel.Laurel)]
    [2, 3, 4, 4]
    """

    def __init__(self):
        self.states = []

    def previous(self, layer):
        """Returns the states that a join by `layer` takes, newest first."""
        ordered = self.states if getattr(layer, "previous", "last") == "first" else self.states[::-1]
        return ordered[: getattr(layer, "max_previous", 0)]

    def join(self, layer, x, fx):
        """Joins `fx` to the stream `x` and remembers `x` for the joins to come.

        Args:
            layer: A `Laurel` layer, or any layer that joins `[x, fx]`, such as `keras.layers.Add()`. One that keeps
                states of its own, such as hyper-connections, returns `[y, *states]`; the next join gets them back.
            x: The state of the stream, the input of the branch.
            fx: The branch's output, of the shape of `x`.

        Returns:
            The next state of the stream, `layer([x, fx, *previous])`, or the first of what it returns.
        """
        if self.states and tuple(self.states[-1].shape) != tuple(x.shape):
            self.states.clear()
        previous = self.previous(layer)
        self.states.append(x)
        y = layer([x, fx, *previous])
        if isinstance(y, (list, tuple)):
            y, *own = y
            self.states = own[::-1]
        return y


def first_states(x, joins):
    """Returns the states at the start of a stack of `joins`: `x`, and again `x` for each earlier state they weigh.

    So every join of the stack has as many weights as the next.

    Raises:
        ValueError: If some joins weigh the last states and others the first.
    """
    weighing = [join for join in joins if getattr(join, "max_previous", 0)]
    if len({join.previous for join in weighing}) > 1:
        raise ValueError("Expected the joins of a stack to weigh the last states, or all the first. Received: both")
    return [x] * (1 + max([0, *(join.max_previous for join in weighing)]))


class ProjectionsAhead:
    """Projects each state once, when it is made, for the join it enters and for those to come that weigh it.

    A low-rank map needs of a state its projections alone. Made by one matmul, they read the state once, not once for
    each join, and their gradients reach it as one: the backward pass then holds no sum that waits for earlier joins.
    For one training step under JAX; see `advance`.

    Args:
        joins: List of the joins of a whole stack, built `Laurel` layers whose `projects_ahead` is true, with as many
            states each and of one rank.
        states: List of the states at the start, newest first, as many.
    """

    def __init__(self, joins, states):
        self.downs = [join.augmentation.low_rank.downs for join in joins]
        self.made = {}
        self.index = 0
        for age, state in enumerate(states[1:], 1):
            self._project(state, -age)

    def next(self, x):
        """Returns the projections that the next join weighs, whose stream is `x`."""
        self._project(x, self.index)
        self.index += 1
        return [self.made.pop((self.index - 1, j)) for j in range(len(self.downs[0]))]

    def _project(self, x, index):
        """Projects the stream of join `index` for it, as its state 0, for the next join, as its state 1, and so on."""
        from keras_laurel.layers import jax_gradient

        places = [(index + j, j) for j in range(len(self.downs[0])) if 0 <= index + j < len(self.downs)]
        kernels = [ops.convert_to_tensor(self.downs[i][j].kernel) for i, j in places]
        projections = jax_gradient.matmul(x, ops.cast(ops.concatenate(kernels, axis=-1), x.dtype))
        self.made.update(zip(places, ops.split(projections, len(places), axis=-1)))


def advance(states, join, fx, previous="last", ahead=None, scales=None):
    """Joins `fx` to the stream and returns the states after it: what `History.join` does, on a list of fixed length.

    Args:
        states: List of tensors, newest first: the stream and the states before it.
        join: A `Laurel` layer, or any layer that joins `[x, fx]`. One that keeps states of its own, such as
            hyper-connections, returns the list of all states.
        fx: The branch's output, of the shape of the stream.
        previous: `"last"` hands on the last states; `"first"` keeps those before the stream, the stack's first.
        ahead: `ProjectionsAhead` of the stack, which has been asked for all joins before; or `None`.
        scales: See `Laurel`.

    Returns:
        List of as many states.
    """
    x, *before = states
    arguments: Any = {} if scales is None else {"scales": scales}
    if ahead is not None:
        y = join([x, fx], projections=ahead.next(x), **arguments)
    else:
        y = join([x, fx, *before[: getattr(join, "max_previous", 0)]], **arguments)
    if isinstance(y, (list, tuple)):
        return list(y)
    return [y, *(before if previous == "first" else states[: len(before)])]
