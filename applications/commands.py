"""What the command lines share."""

import contextlib
import shlex
import sys
from typing import Annotated

import typer

from applications.errors import UserError

BackendName = Annotated[
    str | None, typer.Option(help="jax, tensorflow or torch.", show_default="KERAS_BACKEND, or the first installed")
]
DistributionName = Annotated[
    str,
    typer.Option(
        "--distribution",
        help="none: one device. data: the batch is divided over all devices, of JAX (TPUs, GPUs, several machines by "
        "KERAS_DISTRIBUTION_JOB_ADDRESSES, _NUM_PROCESSES and _PROCESS_ID), of TensorFlow (one machine or a TPU), or "
        "of the processes of PyTorch's torchrun. model:DATAxMODEL, such as model:2x4: the weights are divided too; "
        "JAX alone. A run may go on under another.",
    ),
]
Joins = Annotated[
    str,
    typer.Option(
        help="Comma-separated: add, rw, lr, pa or sums such as rw+lr; rezero, layerscale, denseformer and "
        "hyperconnections of other papers. Settings follow @: rw+lr@rank=8@down_initializer=column_orthogonal."
    ),
]
Seeds = Annotated[int, typer.Option(help="How many seeds; all runs of one come before those of the next.")]
FirstSeed = Annotated[
    int, typer.Option(help="The first of the seeds: others repeat a comparison, or share it among machines.")
]


def seed_list(first, count):
    """Returns `count` seeds from `first` on, as `Seeds` and `FirstSeed` have them.

    Raises:
        UserError: If there is no such seed.
    """
    if count < 1:
        raise UserError(f"--seeds must be at least 1, not {count}")
    if first < 0:
        raise UserError(f"--first-seed must be at least 0, not {first}")
    return list(range(first, first + count))


@contextlib.contextmanager
def errors():
    """Shows a `UserError` as one line, with exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


@contextlib.contextmanager
def stopped(how_to_go_on):
    """Says after Ctrl-C how to go on, with exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nstopped; {how_to_go_on}", file=sys.stderr)
        raise typer.Exit(130) from None


def origin(module):
    """Returns the beginning of a record: the command that runs, of `python -m module`, and `provenance()`."""
    from applications.provenance import provenance  # imports Keras, so the backend must have been chosen

    return {"command": shlex.join(["python", "-m", module, *sys.argv[1:]]), **provenance()}


def words(metrics):
    """Returns a dictionary of numbers as a line."""
    return ", ".join(f"{key} {value:.4f}" for key, value in metrics.items())


def print_table(title, header, rows, width=130):
    """Prints a table whose first column is text and whose others are numbers; it may be `width` characters wide."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=max(width, Console().width)).print(table)
