"""A linear recurrence for all positions at once."""

from keras import ops


def linear_recurrence(decay, added):
    """Returns the states of `state[t] = decay[t] * state[t - 1] + added[t]`, from a state of zeros.

    An associative scan: each pair of positions is one step of a recurrence of half the length, so that there are
    `log2(length)` levels and about three passes over the states. It is written out since `keras.ops.associative_scan`
    also returns the products of the decays, which takes twice as long on PyTorch, and wants a known batch size on
    TensorFlow.

    Args:
        decay: Float tensor `(batch, length, ...)` that broadcasts to the shape of `added`.
        added: Float tensor `(batch, length, ...)`.

    Returns:
        Tensor of the shape of `added`.

    Example:
    >>> from keras_laurel.mixers.recurrence import linear_recurrence
    >>> np.ravel(linear_recurrence(ops.full((1, 4), 0.5), ops.ones((1, 4)))).tolist()
    [1.0, 1.5, 1.75, 1.875]
    """
    length = added.shape[1]
    if length is None:
        return _doubling(decay, added)
    if length == 1:
        return added
    pairs, rest = length // 2, length % 2
    first_decay, first, second_decay, second = decay[:, ::2], added[:, ::2], decay[:, 1::2], added[:, 1::2]
    seconds = linear_recurrence(first_decay[:, :pairs] * second_decay, second_decay * first[:, :pairs] + second)
    firsts = first + first_decay * _pad(seconds, 1, 0)[:, : pairs + rest]
    both = ops.stack([firsts, _pad(seconds, 0, rest)], axis=2)
    return ops.reshape(both, (-1, 2 * (pairs + rest), *added.shape[2:]))[:, :length]


def zero_after(x, axis, num_kept=None):
    """Returns `x` with zeros for all but the first `num_kept` positions of `axis`; by default `x`."""
    if num_kept is None:
        return x
    kept = ops.arange(x.shape[axis]) < num_kept
    return ops.where(ops.reshape(kept, (-1, *(1 for _ in x.shape[axis + 1 :]))), x, 0.0)


def sum_after(x, axis):
    """Returns at each position of `axis` the sum of `x` over the positions after it."""
    return ops.flip(ops.cumsum(ops.flip(x, axis), axis), axis) - x


def _doubling(decay, added):
    """The same for a length that is unknown, as TensorFlow has it: each pass doubles how far back a state sees."""
    length = ops.shape(added)[1]

    def step(reach, decay, added):
        before = [_pad(x, reach, 0)[:, :length] for x in (decay, added)]
        return 2 * reach, decay * before[0], added + decay * before[1]

    return ops.while_loop(lambda reach, *_: reach < length, step, (1, decay, added))[2]


def _pad(x, before, after):
    return ops.pad(x, ((0, 0), (before, after), *((0, 0) for _ in x.shape[2:])))
