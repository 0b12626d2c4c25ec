"""Joins from words: what every builder's `residual` argument goes through."""

import keras

from keras_laurel.layers import Laurel

WORDS = ("add", "rw", "lr", "pa", "rw+lr", "rw+pa", "lr+pa", "rw+lr+pa")


def residual(
    kind,
    *,
    rank=None,
    num_activations=None,
    residual_weights=None,
    previous=None,
    norm=None,
    **kwargs,
) -> keras.Layer:
    """Makes a new join from a word.

    Args:
        kind: `"add"` for the plain residual; `"rw"`, `"lr"`, `"pa"` or a sum of them, such as `"rw+lr"`, for LAuReL;
            or a callable that takes the arguments given, and returns a layer that joins `[x, fx, *previous]`.
        rank: Rank of the low-rank maps, for words with `lr`. Defaults to 16.
        num_activations: Number k of states weighed, for words with `pa`. Defaults to 3, or to 1 with
            `previous="first"`.
        residual_weights: Form of alpha and beta, for words with `rw`. Defaults to `"softmax"`.
        previous: Which states `pa` weighs, `"last"` (the default) or `"first"`.
        norm: `"rms"` for a norm of the sum, for words with `lr` or `pa`.
        **kwargs: The other arguments of `Laurel`, such as `drop_path` and `name`.

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
            kwargs["residual_weights"] = residual_weights or "softmax"
        if "lr" in parts:
            kwargs["rank"] = 16 if rank is None else rank
        if "pa" in parts:
            kwargs.update(num_activations=num_activations, previous=previous or "last")
        if "lr" in parts or "pa" in parts:
            kwargs["norm"] = norm
        return Laurel(**kwargs)
    if callable(kind) and not isinstance(kind, keras.Layer):
        given = {
            "rank": rank,
            "num_activations": num_activations,
            "residual_weights": residual_weights,
            "previous": previous,
            "norm": norm,
        }
        layer = kind(**{key: value for key, value in given.items() if value is not None}, **kwargs)
        if isinstance(layer, keras.Layer):
            return layer
        raise ValueError(f"Expected the callable `kind` to return a Keras layer. Received: {layer!r}")
    words = ", ".join(map(repr, WORDS))
    raise ValueError(
        f"Expected `kind` to be one of {words} or a callable that makes a new layer for each join. Received: {kind!r}"
    )
