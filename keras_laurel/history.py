"""What carries the states of a residual stream from join to join."""


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
            layer: A `Laurel` layer, or any layer that joins `[x, fx]`, such as `keras.layers.Add()`.
            x: The state of the stream, the input of the branch.
            fx: The branch's output, of the shape of `x`.

        Returns:
            The next state of the stream, `layer([x, fx, *previous])`.
        """
        if self.states and tuple(self.states[-1].shape) != tuple(x.shape):
            self.states.clear()
        previous = self.previous(layer)
        self.states.append(x)
        return layer([x, fx, *previous])


def first_states(x, joins):
    """Returns the states at the start of a stack of `joins`: `x`, and again `x` for each earlier state they weigh.

    So every join of the stack has as many weights as the next.
    """
    return [x] * (1 + max((getattr(join, "max_previous", 0) for join in joins), default=0))


def advance(states, join, fx):
    """Joins `fx` to the stream and returns the states after it: what `History.join` does, on a list of fixed length.

    Args:
        states: List of tensors, newest first: the stream and the states before it.
        join: A `Laurel` layer, or any layer that joins `[x, fx]`.
        fx: The branch's output, of the shape of the stream.

    Returns:
        List of as many states. With `previous="first"` the last one stays, the first state of the stack.
    """
    x, *previous = states
    y = join([x, fx, *previous[: getattr(join, "max_previous", 0)]])
    if getattr(join, "previous", "last") == "first":
        return [y, *previous]
    return [y, *states[: len(previous)]]
