"""Hyena's operators in float64 NumPy: sums over all earlier positions instead of Fourier transforms."""

import numpy as np


def short_projection(layer, w, x):
    """Returns the projection, tiled, after a causal convolution of three taps written out."""
    x = np.concatenate([x @ w["projection/dense"] + w["projection/dense/bias"]] * layer.projection_tiles, axis=-1)
    kernel = w["projection/conv"]
    y = np.zeros_like(x) + w["projection/conv/bias"]
    for t, tap in np.ndindex(x.shape[1], len(kernel)):
        if t - tap >= 0:
            y[:, t] += kernel[-1 - tap] * x[:, t - tap]
    return np.split(y, 3, axis=-1)


def taps(w, channels, length):
    """Returns the filters, of shape `(length, channels)`."""
    h = w["filter/features"]
    for index in range(3):
        h = np.sin(w["filter/frequency"] * (h @ w[f"filter/kernel_{index}"] + w[f"filter/bias_{index}"]))
    rates = np.linspace(np.log(100) / 1.5, np.log(100) / 0.3, channels)
    return (h @ w["filter/output"]) * np.exp(-rates * np.linspace(0, 1, length)[:, None])


def convolved(x, kernel):
    """Returns the causal convolution of `x`, positions second, with `kernel`, positions first."""
    y = np.zeros_like(x)
    for t in range(x.shape[1]):
        for j in range(t + 1):
            y[:, t] += kernel[j] * x[:, t - j]
    return y


def hyena(layer, w, x):
    gate, read, value = short_projection(layer, w, x)
    z = read * value
    z = convolved(z, taps(w, z.shape[-1], layer.filter_length)) + w["skip"] * z
    return (gate * z) @ w["output"] + w["output/bias"]


def multi_head_hyena(layer, w, x):
    parts = short_projection(layer, w, x)
    query, key, value = (part.reshape(*x.shape[:2], layer.num_heads, -1) for part in parts)
    z = key[..., :, None] * value[..., None, :]
    kernel = taps(w, layer.num_heads, layer.filter_length)[:, :, None, None]
    z = convolved(z, kernel) + w["skip"][:, None, None] * z
    y = np.einsum("bthi,bthij->bthj", query, z).reshape(x.shape)
    return y @ w["output"] + w["output/bias"]


def expert_weights(scores, num_active, routing):
    weights = np.zeros_like(scores)
    for place in np.ndindex(scores.shape[:-1]):
        active = np.argsort(scores[place])[-num_active:]
        kept = np.full(scores.shape[-1], 0.0 if routing == "leaky" else -np.inf)
        kept[active] = scores[place][active]
        weights[place] = np.exp(kept) / np.exp(kept).sum()
    return weights


def hyena_experts(layer, w, x):
    layer.projection_tiles = 1
    gate, read, value = short_projection(layer, w, x)
    z = read * value
    z = gate * (convolved(z, taps(w, z.shape[-1], layer.filter_length)) + w["skip"] * z)
    weights = expert_weights(x @ w["router"] + w["router/bias"], layer.num_active, layer.routing)
    y = np.einsum("btew,bte->btw", z.reshape(*x.shape[:2], layer.num_experts, -1), weights)
    return y @ w["output"] + w["output/bias"]
