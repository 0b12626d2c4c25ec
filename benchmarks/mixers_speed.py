"""The command line: `python -m benchmarks.mixers_speed --help`."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from applications.backend import choose_backend
from applications.commands import BackendName, errors, print_table
from applications.errors import UserError
from applications.files import writable_file, write_whole
from applications.memory import keep_freed_memory

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    length: Annotated[int, typer.Option(help="Positions of a sequence.")] = 128,
    dim: Annotated[int, typer.Option(help="Width of the layers, a multiple of 16.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Sequences of a step.")] = 32,
    rounds: Annotated[int, typer.Option(help="Steps of each that count.")] = 15,
    backend: BackendName = None,
    out: Annotated[
        str | None, typer.Option(help="JSON file; folders are made.", show_default="runs/mixers_speed_BACKEND.json")
    ] = None,
):
    """Times training steps of the sequence mixers, and of their recurrences beside what the backend has for the same.

    The recurrences' operands are weights, so that a step is the operation, all its gradients and SGD. In each group
    ratios are to the first.
    """
    keep_freed_memory()
    with errors():
        settings = {
            "length": length,
            "dim": dim,
            "batch_size": batch_size,
            "rounds": rounds,
            "backend": choose_backend(backend),
        }
        run(settings, Path(out or f"runs/mixers_speed_{settings['backend']}.json"))


def run(settings, path):
    """Times all groups, writes the result and prints its table.

    Args:
        settings: Dictionary of the command's options but `out`, by name.
        path: Path of the result.

    Raises:
        UserError: If an option is out of range, or the result cannot be written.
    """
    for key in ("length", "dim", "batch_size", "rounds"):
        if settings[key] < 1:
            raise UserError(f"--{key.replace('_', '-')} must be at least 1, not {settings[key]}")
    if settings["dim"] % 16:
        raise UserError(f"--dim must be a multiple of 16, not {settings['dim']}")
    writable_file(path)
    from applications.provenance import provenance  # imports Keras, so the backend must have been chosen
    from benchmarks.mixers import groups
    from benchmarks.mixers_speed_report import table_cells
    from benchmarks.timing import side_by_side

    options = [item for key, value in settings.items() for item in (f"--{key.replace('_', '-')}", str(value))]
    result = {
        "program": "mixers_speed",
        "command": shlex.join(["python", "-m", "benchmarks.mixers_speed", *options]),
        "settings": settings,
        **provenance(),
        "groups": {},
    }
    for group, steps in groups(settings["length"], settings["dim"], settings["batch_size"]).items():
        seconds = side_by_side(steps, settings["rounds"])
        result["groups"][group] = {
            name: {clock: [round(value, 6) for value in seconds[clock][name]] for clock in seconds} for name in steps
        }
        print(f"timed: {group}", flush=True)
    write_whole(path, lambda temporary: Path(temporary).write_text(json.dumps(result)))
    print_table("a training step: medians (quartiles)", *table_cells(result))
    print(f"written: {path}")


if __name__ == "__main__":
    app()
