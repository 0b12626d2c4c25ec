"""Solvers of the tasks by rule: `python -m benchmarks.mad.oracles` shows the most that each setting allows.

A model that stays below has something to learn; the rules see what it sees, and no more.
"""

import functools
import time
from typing import Annotated

import numpy as np
import typer

from benchmarks.mad import metric
from benchmarks.mad.settings import MAD, MAD_CPU
from benchmarks.mad.tasks import (
    SEED,
    Compression,
    FuzzyInContextRecall,
    InContextRecall,
    Memorization,
    SelectiveCopying,
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@functools.singledispatch
def oracle(task, train, inputs) -> np.ndarray:
    """Returns the best predictions for a task's test: an integer array of the shape of `inputs`.

    Args:
        task: The `Task`.
        train: Its training `Examples`; memorization alone looks at them.
        inputs: The inputs of the test.
    """
    raise TypeError(f"Expected a task with an oracle. Received: task={task}")


@oracle.register
def _(task: InContextRecall, train, inputs):
    """What stood behind the same key the last time, else a value."""
    num_keys = task.num_useful // 2
    predictions = np.full_like(inputs, num_keys)
    for row, tokens in zip(predictions, inputs.tolist()):
        values = {}
        for i, token in enumerate(tokens):
            row[i] = values.get(token, num_keys)
            if token < num_keys and i + 1 < len(tokens):
                values[token] = tokens[i + 1]
    return predictions


@oracle.register
def _(task: FuzzyInContextRecall, train, inputs):
    """The value's next token, once the run of key tokens is one that was seen, else any value token."""
    any_value = task.num_key_tokens
    predictions = np.full_like(inputs, any_value)
    for row, tokens in zip(predictions, inputs.tolist()):
        values, key, value = {}, (), ()
        for i, token in enumerate(tokens):
            if token == task.pad:
                continue
            if token >= task.num_key_tokens:
                value += (token,)
            elif value:  # a new key begins
                values[key] = value
                key, value = (token,), ()
            else:
                key += (token,)
            known = values.get(key, ())
            if value == known[: len(value)] and len(value) < len(known):
                row[i] = known[len(value)]
    return predictions


@oracle.register
def _(task: SelectiveCopying, train, inputs):
    """The tokens before the marker that are not blank, in order."""
    num = task.num_tokens_to_copy
    before = inputs[:, : -num - 1]
    predictions = np.full_like(inputs, task.blank)
    predictions[:, -num:] = before[before != task.blank].reshape(-1, num)
    return predictions


@oracle.register
def _(task: Compression, train, inputs):
    """The inputs."""
    return inputs


@oracle.register
def _(task: Memorization, train, inputs):
    """The value that the key had in training, else the smallest."""
    values = np.full(task.vocab_size, (task.vocab_size - 1) // 2, inputs.dtype)
    values[train.inputs[:, ::2]] = train.targets[:, 1::2]
    predictions = inputs.copy()
    predictions[:, 1::2] = values[inputs[:, ::2]]
    return predictions


def scores(task, seed=SEED):
    """Returns micro accuracy and macro accuracy per batch that the oracle reaches on a seed's test."""
    data = task.dataset(seed)
    predictions = oracle(task, data.train, data.test.inputs)
    return metric.micro(predictions, data.test.targets), metric.macro_per_batch(predictions, data.test.targets)


@app.command()
def main(
    cpu: Annotated[bool, typer.Option(help="The reduced settings, not the published ones.")] = False,
    seed: Annotated[int, typer.Option(help="Of the examples.")] = SEED,
):
    """Makes the examples of every setting and shows what its oracle scores, and in how many seconds.

    The published settings take some minutes.
    """
    protocol = MAD_CPU if cpu else MAD
    print(f"{protocol.name:46} micro  macro per batch  seconds")
    for name, settings in protocol.settings.items():
        for setting in settings:
            start = time.perf_counter()
            micro, macro = scores(setting.task, seed)
            label = f"{name} {setting.label}"
            print(f"{label:46} {micro:.4f} {macro:8.4f} {time.perf_counter() - start:15.1f}", flush=True)


if __name__ == "__main__":
    app()
