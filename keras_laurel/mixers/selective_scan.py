"""The recurrence of Mamba."""

import keras
from keras import ops

from keras_laurel.mixers.recurrence import linear_recurrence, sum_after, zero_after


def selective_scan(x, delta, log_decay, write, read, method=None):
    """Runs a diagonal linear recurrence whose step, input and output depend on the position.

        state[t] = exp(delta[t] * log_decay) * state[t - 1] + delta[t] * x[t] * write[t]
        y[t] = sum over states of read[t] * state[t]

    `"loop"` is a compiled loop over the positions whose backward pass computes the states anew: no state is ever
    stored. `"associative"` is `linear_recurrence` over all states at once, which has fewer steps in sequence, but reads
    and writes all states a few times.

    Args:
        x: Float tensor `(batch, length, channels)`.
        delta: Float tensor of the shape of `x`, not negative: how much of `x` the state takes, and how much it forgets.
        log_decay: Float tensor `(channels, states)`, not positive: `A` of the paper.
        write: Float tensor `(batch, length, states)`: `B` of the paper.
        read: Float tensor `(batch, length, states)`: `C` of the paper.
        method: `"loop"` (JAX alone: other backends run it as a Python loop, or not at all) or `"associative"`. Defaults
            to `"loop"` under JAX and to `"associative"` elsewhere.

    Returns:
        Tensor `(batch, length, channels)`.

    Raises:
        ValueError: If `method` is unknown.

    Example:
    >>> from keras_laurel.mixers.selective_scan import selective_scan
    >>> ones = np.ones((1, 3, 1), "float32")
    >>> np.ravel(selective_scan(ones, ones, np.log([[0.5]]).astype("float32"), ones, ones)).tolist()
    [1.0, 1.5, 1.75]

    Reference:
        [Gu and Dao, 2023](https://arxiv.org/abs/2312.00752), algorithm 2
    """
    if method is None:
        method = "loop" if keras.backend.backend() == "jax" else "associative"
    if method not in METHODS:
        raise ValueError(f"Expected `method` to be one of {tuple(METHODS)}. Received: method={method!r}")
    # States before channels, so that the innermost axis is long.
    return METHODS[method](x, delta, ops.transpose(log_decay), write, read)


def _loop(x, delta, log_decay, write, read):
    @keras.remat
    def step(state, inputs):
        x, delta, write, read = inputs
        decay = ops.exp(ops.expand_dims(delta, 1) * log_decay)
        state = decay * state + ops.expand_dims(delta * x, 1) * ops.expand_dims(write, 2)
        return state, ops.sum(ops.expand_dims(read, 2) * state, axis=1)

    first = ops.zeros((ops.shape(x)[0], *log_decay.shape), dtype=x.dtype)
    inputs = tuple(ops.swapaxes(tensor, 0, 1) for tensor in (x, delta, write, read))
    return ops.swapaxes(ops.scan(step, first, inputs)[1], 0, 1)


def _associative(x, delta, log_decay, write, read):
    decay = ops.exp(ops.expand_dims(delta, 2) * log_decay)
    states = linear_recurrence(decay, ops.expand_dims(delta * x, 2) * ops.expand_dims(write, 3))
    return ops.sum(ops.expand_dims(read, 3) * states, axis=2)


def continue_scan(state, x, delta, log_decay, write, read, num_kept=None):
    """Returns what the state before the first position adds to `selective_scan`, and the state after the last.

    Args:
        state: Float tensor `(batch, states, channels)`.
        x: See `selective_scan`.
        delta: See there.
        log_decay: See there.
        write: See there.
        read: See there.
        num_kept: Integer scalar: the state after as many positions; by default after all.

    Returns:
        Tensor `(batch, length, channels)`, and a state.
    """
    log_decay = ops.transpose(log_decay)

    def decays(delta):
        return ops.exp(ops.expand_dims(delta, 2) * log_decay)

    from_before = ops.expand_dims(read, 3) * decays(ops.cumsum(delta, axis=1)) * ops.expand_dims(state, 1)
    delta = zero_after(delta, 1, num_kept)
    taken = decays(sum_after(delta, 1)) * ops.expand_dims(delta * x, 2) * ops.expand_dims(write, 3)
    return ops.sum(from_before, axis=2), ops.squeeze(decays(ops.sum(delta, 1, keepdims=True)), 1) * state + ops.sum(
        taken, axis=1
    )


METHODS = {"loop": _loop, "associative": _associative}
