"""The recurrence of Mamba."""

import keras
from keras import ops

from keras_laurel.mixers.recurrence import linear_recurrence


def selective_scan(x, delta, log_decay, write, read, method=None, state=None, num_kept=None):
    """Runs a diagonal linear recurrence whose step, input and output depend on the position.

        state[t] = exp(delta[t] * log_decay) * state[t - 1] + delta[t] * x[t] * write[t]
        y[t] = sum over states of read[t] * state[t]

    `"loop"` is a compiled loop over the positions. Under JAX its backward pass computes the states anew, so that none
    is ever stored; under TensorFlow they are stored. `"associative"` is `linear_recurrence` over all states at once,
    which has fewer steps in sequence, but reads and writes all states a few times.

    Args:
        x: Float tensor `(batch, length, channels)`.
        delta: Float tensor of the shape of `x`, not negative: how much of `x` the state takes, and how much it forgets.
        log_decay: Float tensor `(channels, states)`, not positive: `A` of the paper.
        write: Float tensor `(batch, length, states)`: `B` of the paper.
        read: Float tensor `(batch, length, states)`: `C` of the paper.
        method: `"loop"` (PyTorch runs it position by position) or `"associative"`. Defaults to `"loop"` under JAX and
            TensorFlow and to `"associative"` under PyTorch.
        state: Float tensor `(batch, states, channels)`, the state before the first position, to go on from. Defaults
            to zeros.
        num_kept: Integer scalar, with `state`: the state after as many positions is returned, by default after all.

    Returns:
        Tensor `(batch, length, channels)`; with `state`, a pair of it and a state.

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
    backend = keras.backend.backend()
    if method is None:
        method = "associative" if backend == "torch" else "loop"
    if method not in METHODS:
        raise ValueError(f"Expected `method` to be one of {tuple(METHODS)}. Received: method={method!r}")
    scan = _tensorflow_loop if (method, backend) == ("loop", "tensorflow") else METHODS[method]
    # States before channels, so that the innermost axis is long.
    y, last = scan(x, delta, ops.transpose(log_decay), write, read, state, num_kept)
    return y if state is None else (y, last)


def _after(log_decay, state, x, delta, write):
    decay = ops.exp(ops.expand_dims(delta, 1) * log_decay)
    return decay * state + ops.expand_dims(delta * x, 1) * ops.expand_dims(write, 2)


def _loop(x, delta, log_decay, write, read, first, num_kept):
    @keras.remat
    def step(states, inputs):
        x, delta, write, read, *is_kept = inputs
        state = _after(log_decay, states[0], x, delta, write)
        kept = [ops.where(this, state, states[1]) for this in is_kept]
        return (state, *kept), ops.sum(ops.expand_dims(read, 2) * state, axis=1)

    if first is None:
        first = ops.zeros((ops.shape(x)[0], *log_decay.shape), dtype=x.dtype)
    is_kept = () if num_kept is None else (ops.arange(x.shape[1]) < num_kept,)
    inputs = (*(ops.swapaxes(tensor, 0, 1) for tensor in (x, delta, write, read)), *is_kept)
    states, y = ops.scan(step, (first, *(first for _ in is_kept)), inputs)
    return ops.swapaxes(y, 0, 1), states[-1]


def _tensorflow_loop(x, delta, log_decay, write, read, first, num_kept):
    import tensorflow as tf  # Keras's scan wants outputs of the state's shape

    if first is None:
        first = ops.zeros((ops.shape(x)[0], *log_decay.shape), dtype=x.dtype)
    inputs = tuple(ops.swapaxes(tensor, 0, 1) for tensor in (x, delta, write))
    states = tf.scan(lambda state, inputs: _after(log_decay, state, *inputs), inputs, first)
    y = ops.einsum("bln,lbnd->bld", read, states)
    return y, states[-1] if num_kept is None else ops.concatenate([ops.expand_dims(first, 0), states])[num_kept]


def _associative(x, delta, log_decay, write, read, first, num_kept):
    decay = ops.exp(ops.expand_dims(delta, 2) * log_decay)
    added = ops.expand_dims(delta * x, 2) * ops.expand_dims(write, 3)
    if first is None:
        states = linear_recurrence(decay, added)
        return ops.sum(ops.expand_dims(read, 3) * states, axis=2), None
    first = ops.expand_dims(first, 1)  # is what a position before the others adds
    states = linear_recurrence(ops.concatenate([first, decay], axis=1), ops.concatenate([first, added], axis=1))
    last = states[:, -1] if num_kept is None else ops.take(states, num_kept, axis=1)
    return ops.sum(ops.expand_dims(read, 3) * states[:, 1:], axis=2), last


METHODS = {"loop": _loop, "associative": _associative}
