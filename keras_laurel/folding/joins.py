"""How a LAuReL join is folded."""

import math
import re

import keras
import numpy as np
from keras import ops

from keras_laurel.folding.rules import described, rule, scale_kernel, takes_no_scale
from keras_laurel.folding.scales import simplified
from keras_laurel.layers import Laurel, LaurelLR, LaurelPA, LaurelRW
from keras_laurel.retrofit import LaurelWrapper

# By how many powers of two the states of one stream may be scaled differently. A norm squares them.
BITS = {"float16": 8}
MOST_BITS = 50

JOINS = (Laurel, LaurelLR, LaurelPA, LaurelRW)
STANDARD = ("name", "trainable", "dtype", "axis")
FOLDED = ("residual_weights", "scale", "per_channel", "drop_path", "seed")


@rule(*JOINS)
def laurel(folding, join, inputs, outputs):
    """Where the stream `x` is scaled by s, the next state is by s * beta, and the branch by s * beta / alpha.

    So `alpha * fx + beta * (x + sum)` is the plain `fx + x + sum`, all divided by s * beta. The parts of the sum, each
    of a state with a scale of its own, are scaled in their weights.
    """
    (x, fx, *previous), (y,) = inputs, outputs
    log_alpha, log_beta = log_weights(join)
    why = described(join)
    if join.residual_weights is not None:
        why += f", with alpha = {_brief(log_alpha)} and beta = {_brief(log_beta)}"
        folding.folded.add(id(join))
    folding.mark(x)
    most = BITS.get(join.compute_dtype, MOST_BITS) * math.log(2)
    bits = round(folding.scales.excess(x, log_beta, most) / math.log(2))
    if bits:
        folding.skip_bits[id(join)] = bits
    if np.ptp(folding.scales[x] + log_beta) > most:
        raise out_of_range(join)
    folding.tie(x, y, log_beta - bits * math.log(2), why)
    folding.tie(y, fx, -log_alpha, why)
    folding.mark(y)
    if np.ndim(log_beta):
        folding.scales.set_axis(x, join.axis)
    for node in (x, fx, *previous, y):
        folding.need(node, join.axis, join)
    if join.augmentation is not None:
        folding.later(lambda: _scale_sum(folding, join, x, y, log_beta, previous))


def out_of_range(join):
    """Returns the error that says that `join` cannot be folded into a stream of floats."""
    return ValueError(
        "Expected alphas and betas under which a plain stream stays in the range of the floats. Serve the model as it "
        f"is. Received: {described(join)}, up to which the betas multiply to too small or large a number"
    )


def _scale_sum(folding, join, x, y, log_beta, previous):
    scales = folding.scales
    log_skip = simplified(scales[y] - log_beta)  # the scale of the skip: that of `x`, or what `x` is rescaled to
    states = [log_skip, *(scales[state] for state in previous)]
    if join.previous == "first":
        states = states[1:] or states
    if join.norm:
        # The norm gets what it got, so its epsilon stays, and its gain makes the scale.
        folding.multiply(join.gain, -log_skip)
        log_skip = 0.0
    if join.rank is not None:
        low_rank = join.augmentation if join.num_activations is None else join.augmentation.low_rank
        by_columns = np.ndim(log_skip) > 0
        for down, log_scale in zip(low_rank.downs, states):
            scale_kernel(folding, down, log_scale if by_columns else log_scale - log_skip, 0.0)
        if by_columns:
            scale_kernel(folding, low_rank.up, 0.0, log_skip)
        return
    changes = [simplified(log_scale - log_skip) for log_scale in states]
    if any(np.ndim(change) for change in changes):
        raise ValueError(
            "Expected states that are scaled alike in all channels, as `gamma` weighs them. Serve the model as it is, "
            "or train it without `per_channel`, or with 'lr' beside 'pa'. "
            f"Received: {described(join)}, in a stream with `per_channel` residual weights"
        )
    folding.multiply(join.augmentation.gamma, np.array(changes))


def log_weights(join):
    """Returns the logarithms of alpha and beta, in float64: each a float, or a vector over the channels.

    Raises:
        ValueError: If alpha or beta is not positive, as `"free"` ones may be.
    """
    if join.residual_weights is None:
        return 0.0, 0.0
    form, scale = join.residual_weights.form, join.residual_weights.scale
    w = ops.convert_to_numpy(join.residual_weights.logits).astype("float64")
    if form == "free":
        if not np.all(w > 0):
            raise ValueError(
                "Expected positive residual weights: a negative one passes no ReLU, and zero no inverse. "
                f"Received: {described(join)}, with alpha = {_brief_values(w[0])} and beta = {_brief_values(w[1])}"
            )
        logs = np.log(w)
    elif form == "softmax":
        logs = math.log(scale) + w - np.logaddexp(w[0], w[1])
    else:
        logs = math.log(scale) - np.logaddexp(0.0, -(w if form == "sigmoid" else np.stack([w[0], -w[0]])))
    return (logs[0], logs[1]) if np.ndim(logs[0]) else (float(logs[0]), float(logs[1]))


def plain_join(join, taken=()):
    """Returns a new join like `join` without residual weights and `drop_path`: an `Add` if nothing else is left.

    An `Add` gets the name that the `Add` had whose place `laurelize` gave to `join`, unless it is `taken`.
    """
    arguments = plain_arguments(join)
    if arguments:
        config = {key: value for key, value in join.get_config().items() if key in STANDARD}
        return Laurel.from_config({**config, **arguments})
    name = re.sub("_laurel$", "_add", join.name)
    return keras.layers.Add(name=join.name if name in taken else name, dtype=join.dtype_policy)


def plain_arguments(join):
    """Returns the arguments of `Laurel`, as its config has them, that are left of `join`: none of a plain `x + fx`."""
    if join.augmentation is None:
        return {}
    return {key: value for key, value in join.get_config().items() if key not in STANDARD + FOLDED}


@rule(LaurelWrapper)
def wrapper(folding, layer, inputs, outputs):
    """A wrapped block takes no scale, and its alpha and beta stay: see the error."""
    if layer.join.residual_weights is not None:
        raise ValueError(
            "Expected joins that each weigh one branch. A block with joins of its own adds several branches to its "
            "stream, and alpha and beta of a join around all of it cannot be divided among them. Serve the model as "
            f"it is. Received: {described(layer)}, around '{layer.layer.name}'"
        )
    takes_no_scale(folding, layer, inputs, outputs)


def _brief(log_weight):
    return _brief_values(np.exp(log_weight))


def _brief_values(weights):
    low, high = np.min(weights), np.max(weights)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
