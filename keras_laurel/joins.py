"""Joins from words: what every builder's `residual` argument goes through."""

import keras

from keras_laurel.layers import Laurel

WORDS = ("add", "rw", "lr", "pa", "rw+lr", "rw+pa", "lr+pa", "rw+lr+pa")


def residual(
    kind,
    *,
    rank=16,
    num_activations=None,
    residual_weights="softmax",
    previous="last",
    **kwargs,
):
    """Makes a new join from a word.

    Args:
        kind: `"add"` for the plain residual; `"rw"`, `"lr"`, `"pa"` or a sum of them, such as `"rw+lr"`, for LAuReL;
            or a callable that takes `kwargs` and returns a layer that joins `[x, fx, *previous]`.
        rank: Rank of the low-rank maps, for words with `lr`.
        num_activations: Number k of states weighed, for words with `pa`. Defaults to 3, or to 1 with
            `previous="first"`.
        residual_weights: Form of alpha and beta, for words with `rw`.
        previous: Which states `pa` weighs, `"last"` or `"first"`.
        **kwargs: The other arguments of `Laurel`, such as `drop_path` and `name`; all that a callable is given.

    Returns:
        A new `Laurel` layer, or what the callable returns.

    Raises:
        ValueError: If `kind` is an unknown word, a layer (joins do not share one) or a callable that makes no layer.

    Example:
    >>> keras_laurel.residual("rw+lr", rank=8).rank
    8
    >>> keras_laurel.residual("nearly")
    Traceback (most recent call last):
    ValueError: Expected `kind` to be one of 'add', 'rw', ..., 'rw+lr+pa' or a callable ... Received: 'nearly'
    """
    if isinstance(kind, str) and kind in WORDS:
        parts = kind.split("+")
        if num_activations is None:
            num_activations = 1 if previous == "first" else 3
        if "rw" in parts:
            kwargs["residual_weights"] = residual_weights
        if "lr" in parts:
            kwargs["rank"] = rank
        if "pa" in parts:
            kwargs.update(num_activations=num_activations, previous=previous)
        return Laurel(**kwargs)
    if callable(kind) and not isinstance(kind, keras.Layer):
        layer = kind(**kwargs)
        if isinstance(layer, keras.Layer):
            return layer
        raise ValueError(f"Expected the callable `kind` to return a Keras layer. Received: {layer!r}")
    words = ", ".join(map(repr, WORDS))
    raise ValueError(
        f"Expected `kind` to be one of {words} or a callable that makes a new layer for each join. Received: {kind!r}"
    )
