"""The equations of the papers in float64 NumPy, written from the papers and not from the layers.

    y = alpha * fx + beta * (x + norm(sum_j gamma_j * h_j(x_j)))

Weights are a dictionary of `logits`, `gamma`, `gain`, `down_0`, `down_1`, ... and `up` (the `up_j` below each other),
as far as a variant has them. The keyword arguments are those of `keras_laurel.Laurel`.
"""

import numpy as np


def alpha_beta(form, scale, logits):
    if form is None:
        return 1.0, 1.0
    if form == "free":
        return logits
    if form == "softmax":
        return scale * np.exp(logits) / np.sum(np.exp(logits), axis=0)
    if form == "single":
        logits = np.stack([logits[0], -logits[0]])
    return scale / (1 + np.exp(-logits))


def laurel(
    inputs,
    weights,
    residual_weights=None,
    scale=2.0,
    rank=None,
    num_activations=None,
    previous="last",
    norm=None,
    norm_epsilon=1e-6,
    axis=-1,
    **_,
):
    x, fx, *older = (np.moveaxis(np.asarray(a, "float64"), axis, -1) for a in inputs)
    if num_activations is None:
        states, gamma = [x], [1.0]
    else:
        gamma = weights["gamma"]
        states = [x, *older] if previous == "last" else [*older, x][:1]
    assert len(gamma) == len(states)
    total = np.zeros_like(x)
    if rank is not None or num_activations is not None:
        for j, state in enumerate(states):
            h = state if rank is None else state @ weights[f"down_{j}"] @ weights["up"][j * rank : (j + 1) * rank]
            total = total + gamma[j] * h
    if norm == "rms":
        total = weights["gain"] * total / np.sqrt(np.mean(total**2, axis=-1, keepdims=True) + norm_epsilon)
    alpha, beta = alpha_beta(residual_weights, scale, weights.get("logits"))
    return np.moveaxis(alpha * fx + beta * (x + total), -1, axis)


def gemma3n_laurel_block(x, linear_left, linear_right, norm_weight, eps=1e-6):
    """Gemma 3n's `LaurelBlock`: `x + RMSNorm(linear_right(linear_left(x)))`; matrices are `(out, in)`, as in torch."""
    laurel = x @ linear_left.T @ linear_right.T
    normed = laurel * (np.mean(laurel**2, axis=-1, keepdims=True) + eps) ** -0.5 * norm_weight
    return x + normed
