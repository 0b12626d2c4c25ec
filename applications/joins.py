"""Joins as command lines name them."""

import dataclasses

from applications.errors import UserError
from applications.initializers import initializer
from applications.peers import PEERS
from applications.settings import with_settings
from keras_laurel import residual
from keras_laurel.joins import WORDS

JOINS = (*WORDS, *PEERS)


@dataclasses.dataclass(frozen=True)
class Changes:
    """What a join's name may change of the arguments of `keras_laurel.residual` and `Laurel`; `None` is nothing."""

    rank: int | None = None
    num_activations: int | None = None
    residual_weights: str | None = None
    scale: float | None = None
    per_channel: bool | None = None
    previous: str | None = None
    norm: str | None = None
    down_initializer: str | None = None
    drop_path: float | None = None


def join_arguments(name, **defaults):
    """Returns what makes a join: the arguments of `keras_laurel.residual`.

    Args:
        name: `WORD[@KEY=VALUE]...`: one of `JOINS`, or what has been added to `PEERS`, and the `Changes`.
        **defaults: Arguments, unless the name has others.

    Returns:
        The `kind` and a dictionary of keyword arguments.

    Raises:
        UserError: If there is no such join.

    Example:
    >>> join_arguments("rw+lr@rank=8@norm=rms", rank=12, num_activations=3)
    ('rw+lr', {'rank': 8, 'num_activations': 3, 'norm': 'rms'})
    """
    word, *changes = name.split("@")
    known = (*WORDS, *PEERS)
    if word not in known:
        raise UserError(f"unknown join {word!r}; known: {', '.join(known)}")
    changed = {key: value for key, value in vars(with_settings(Changes(), changes)).items() if value is not None}
    if changed.get("previous") == "first":
        changed["num_activations"] = 1
    if "down_initializer" in changed:
        changed["down_initializer"] = initializer(changed["down_initializer"])
    kind, arguments = PEERS.get(word, word), {**defaults, **changed}
    try:
        residual(kind, **arguments)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    return kind, arguments
