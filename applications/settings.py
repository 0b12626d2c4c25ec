"""Settings of a run: a frozen dataclass, its changes from the command line, and the ranges of its values."""

import dataclasses
import json
import operator
import types
import typing

from applications.errors import UserError

_COMPARISONS = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}


def as_json(config):
    """Returns the fields of `config` as JSON would give them back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def with_settings(config, settings):
    """Returns `config` with changes as the command line writes them.

    Args:
        config: A frozen dataclass, whose annotations are `bool`, `int`, `float`, `str`, one of these or `None`, or a
            tuple of whole numbers.
        settings: Strings `"key=value"`; a tuple's items are divided by commas, and `none` is None where it may be.

    Raises:
        UserError: If a key is unknown or a value is not of its field's type.
    """
    kinds = typing.get_type_hints(type(config))
    changes = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"a setting is key=value, not {setting!r}")
        if key not in kinds:
            raise UserError(f"unknown setting {key!r}; known: {', '.join(kinds)}")
        try:
            changes[key] = _parsed(value, kinds[key])
        except ValueError:
            raise UserError(f"{key} takes {_described(kinds[key])}, not {value!r}") from None
    return dataclasses.replace(config, **changes)


def check_ranges(config, ranges):
    """Refuses a `config` with a value out of its range; `None` is in every range.

    Args:
        config: A dataclass.
        ranges: Dictionary of ranges, such as `"at least 1"` or `"above 0 and at most 1"`, to the fields that they
            hold for.

    Raises:
        UserError: If a value is out of its range.
    """
    for words, keys in ranges.items():
        for key in keys:
            value = getattr(config, key)
            if value is not None and not _in_range(value, words):
                raise UserError(f"{key} must be {words}, not {value}")


def check_choices(config, choices):
    """Refuses a `config` with a value that is none of its choices.

    Args:
        config: A dataclass.
        choices: Dictionary of fields to the values that they may have.

    Raises:
        UserError: If a value is not among its choices.
    """
    for key, known in choices.items():
        value = getattr(config, key)
        if value not in known:
            raise UserError(f"unknown {key} {value!r}; known: {', '.join(known)}")


def _in_range(value, words):
    bounds = (bound.rpartition(" ") for bound in words.split(" and "))
    return all(_COMPARISONS[comparison](value, float(number)) for comparison, _, number in bounds)


def _parsed(text, kind):
    if isinstance(kind, types.UnionType):
        kind = typing.get_args(kind)[0]
        if text.lower() == "none":
            return None
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if typing.get_origin(kind) is tuple:
        return tuple(int(item) for item in text.split(","))
    return kind(text)


def _described(kind):
    if isinstance(kind, types.UnionType):
        return f"{_described(typing.get_args(kind)[0])} or none"
    if typing.get_origin(kind) is tuple:
        return "whole numbers divided by commas"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]
