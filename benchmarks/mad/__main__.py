"""The command line: `python -m benchmarks.mad --help`."""

import functools
import shlex
import sys
from typing import Annotated

import typer

from applications.backend import choose_backend
from applications.commands import BackendName, FirstSeed, Joins, Seeds, errors, print_table, seed_list, stopped
from applications.errors import UserError
from applications.memory import keep_freed_memory
from benchmarks.mad import settings
from benchmarks.suite import available_processes, combined, missing, names_of, progress, records_of, run_jobs

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

PROTOCOLS = {"mad-cpu": settings.MAD_CPU, "mad": settings.MAD, "smoke": settings.SMOKE}
Protocol = Annotated[
    str,
    typer.Option(
        help="mad-cpu, reduced, a few minutes a run; mad, as published; smoke, which only shows that all runs."
    ),
]
Out = Annotated[str | None, typer.Option(help="Folder of the records.", show_default="runs/mad/PROTOCOL")]


@app.callback()
def main():
    """Mechanistic architecture design: what an architecture, or a join, does on six small tasks."""
    keep_freed_memory()


@app.command()
def run(
    protocol: Protocol = "mad-cpu",
    tasks: Annotated[str, typer.Option(help="Comma-separated names of tasks, or all.")] = "all",
    labels: Annotated[str, typer.Option("--settings", help="Comma-separated labels of settings, or all.")] = "all",
    architectures: Annotated[
        str, typer.Option(help="Comma-separated; `list` shows them. Mixers with -then- between them are one too.")
    ] = "transformer",
    joins: Joins = "add,rw,rw+lr,rw+lr+pa",
    seeds: Seeds = 3,
    first_seed: FirstSeed = 0,
    learning_rates: Annotated[str | None, typer.Option(help="Comma-separated.", show_default="the protocol's")] = None,
    weight_decays: Annotated[str | None, typer.Option(help="Comma-separated.", show_default="the protocol's")] = None,
    schedule: Annotated[str, typer.Option(help="cosine, or constant as the published code had it.")] = "cosine",
    rank: Annotated[int, typer.Option(help="Of low-rank maps; with 12 the control is transformer-wide.")] = 12,
    num_activations: Annotated[int, typer.Option(help="States that pa weighs.")] = 3,
    plugin: Annotated[str | None, typer.Option(help="A Python file of mixers and joins of your own.")] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Runs at a time, one core each; 0 is in this process, as for a GPU.", show_default="the cores"
        ),
    ] = None,
    out: Out = None,
    backend: BackendName = None,
):
    """Trains and scores; each run is a file when it ends. Started again, it goes on with what is not there.

    Such as: run --tasks in-context-recall --architectures transformer,mamba --joins add,rw+lr

    The whole suite of one architecture and join takes 25 minutes of a core for each seed and learning rate at the
    baseline settings of mad-cpu, and weeks as published: that is for GPUs.
    """
    with errors():
        plan = _protocol(protocol)
        choose_backend(backend)
        from applications.joins import join_arguments
        from benchmarks.mad import runner
        from benchmarks.mad.architectures import DIM, mixers_of
        from benchmarks.mad.plugin import load_plugin

        own = {"plugin": plugin, "plugin_version": load_plugin(plugin)} if plugin else {}
        if processes is not None and processes < 0:
            raise UserError(f"--processes must be at least 0, not {processes}")
        if schedule not in ("cosine", "constant"):
            raise UserError(f"unknown schedule {schedule!r}; known: cosine, constant")
        names = [names_of("--joins", joins), names_of("--architectures", architectures)]
        for name in names[0]:
            _, arguments = join_arguments(name, rank=rank, num_activations=num_activations)
            if arguments["rank"] >= DIM:
                raise UserError(f"{name} at rank {arguments['rank']}: the rank must be below {DIM}")
        for name in names[1]:
            mixers_of(name)
        jobs = runner.jobs_of(
            plan,
            list(plan.settings) if tasks == "all" else names_of("--tasks", tasks),
            None if labels == "all" else names_of("--settings", labels),
            names[1],
            names[0],
            _numbers("--learning-rates", learning_rates, plan.learning_rates),
            _numbers("--weight-decays", weight_decays, plan.weight_decays),
            seed_list(first_seed, seeds),
            schedule=schedule,
            rank=rank,
            num_activations=num_activations,
            **own,
        )
        folder = out or f"runs/mad/{protocol}"
        left = missing(jobs, folder)
        if len(left) < len(jobs):
            print(f"{len(jobs) - len(left)} of {len(jobs)} runs are there already")
        command = shlex.join(["python", "-m", "benchmarks.mad", *sys.argv[1:]])
        record = functools.partial(runner.record_of, command=command)
        with stopped(f"the same command goes on in {folder}"), progress(left, _found) as on_end:
            run_jobs(left, folder, record, available_processes(processes, len(left)), on_end)
        _show(folder)


@app.command(name="list")
def show():
    """Names the tasks, settings, mixers and architectures."""
    from benchmarks.mad.architectures import ARCHITECTURES, MIXERS

    for name, plan in PROTOCOLS.items():
        print(f"{name}: learning rates {plan.learning_rates}, weight decays {plan.weight_decays}")
        for task, levels in plan.settings.items():
            print(f"    {task}: {', '.join(level.label for level in levels)}")
    print(f"mixers: {', '.join(MIXERS)}")
    for name, mixers in ARCHITECTURES.items():
        print(f"{name}: {', '.join(mixers)}")


@app.command()
def report(
    folder: Annotated[str, typer.Argument(help="Folder of records.")],
    plot: Annotated[str | None, typer.Option(help="Where to draw them, such as mad.png.")] = None,
    details: Annotated[
        bool, typer.Option(help="Every setting too: the rate chosen, when 95% were right, the published score.")
    ] = False,
):
    """Shows what the runs in a folder have found; those of the published protocol beside the published scores."""
    with errors():
        result = _show(folder)
        if details:
            from benchmarks.mad import report as reporting

            print_table("settings", *reporting.detail_cells(result), width=180)
        if plot:
            from benchmarks.mad import report as reporting

            reporting.plot(result, plot)


def _show(folder):
    from benchmarks.mad import published
    from benchmarks.mad import report as reporting

    result = combined(records_of(folder))
    for title, (header, rows) in (
        (reporting.TITLE, reporting.table_cells(result)),
        (reporting.DIFFERENCES, reporting.difference_cells(result)),
        (published.TITLE, published.cells(result)),
    ):
        if rows:
            print_table(title, header, rows, width=180)
    print(reporting.CAVEAT)
    return result


def _found(record):
    return f"{record['test']['micro']:.4f}" if record["test"] else "diverged"


def _protocol(name):
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _numbers(option, text, default):
    if text is None:
        return list(default)
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} takes numbers divided by commas, not {text!r}") from None
    if min(numbers) < 0:
        raise UserError(f"{option} must be at least 0, not {text}")
    return numbers


if __name__ == "__main__":
    app()
