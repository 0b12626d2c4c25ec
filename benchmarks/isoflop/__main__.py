"""The command line: `python -m benchmarks.isoflop --help`."""

import functools
import shlex
import sys
from typing import Annotated

import typer

from applications.backend import choose_backend
from applications.commands import BackendName, FirstSeed, Joins, Seeds, errors, print_table, seed_list, stopped
from applications.errors import UserError
from applications.memory import keep_freed_memory
from benchmarks.suite import available_processes, combined, missing, names_of, progress, records_of, run_jobs

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def main():
    """IsoFLOP scaling: at several budgets of compute, which size of a decoder is best, and what a join changes."""
    keep_freed_memory()


@app.command()
def run(
    budgets: Annotated[str, typer.Option(help="Operations of a whole training, comma-separated.")] = "3e11,1e12,3e12",
    sizes: Annotated[
        str, typer.Option(help="WIDTHxBLOCKS, comma-separated; widths are multiples of 16.")
    ] = "32x2,48x2,64x3,96x3,128x4",
    mixers: Annotated[
        str,
        typer.Option(help="Architectures, comma-separated: words of the decoder's mixers, with -then- between them."),
    ] = "attention,gated_linear_attention-then-attention",
    joins: Joins = "add,rw+lr",
    seeds: Seeds = 1,
    first_seed: FirstSeed = 0,
    text: Annotated[
        str | None, typer.Option(help="A UTF-8 text file; its last tenth is held out.", show_default="tinyshakespeare")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Sequences of a step.")] = 8,
    length: Annotated[int, typer.Option(help="Characters of a sequence.")] = 128,
    learning_rate: Annotated[
        float, typer.Option(help="The highest at width 64; elsewhere by the root of 64 / width.")
    ] = 4e-3,
    rank: Annotated[int, typer.Option(help="Of low-rank maps.")] = 8,
    num_activations: Annotated[int, typer.Option(help="States that pa weighs.")] = 3,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Runs at a time, one core each; 0 is in this process, as for a GPU.", show_default="the cores"
        ),
    ] = None,
    out: Annotated[str, typer.Option(help="Folder of the records.")] = "runs/isoflop",
    backend: BackendName = None,
):
    """Trains and scores; each run is a file when it ends. Started again, it goes on with what is not there.

    The same command takes larger budgets and sizes where there is hardware:
    run --budgets 1e15,3e15,1e16 --sizes 256x6,384x6,512x8,768x8,1024x12 --text FILE --length 512 --processes 0
    """
    with errors():
        choose_backend(backend)
        from applications.joins import join_arguments
        from benchmarks.isoflop.runs import HEAD_DIM, Run, record_of
        from keras_laurel.applications.laurel_decoder.mixers import blocks_of

        for option, value in (("batch-size", batch_size), ("length", length), ("rank", rank)):
            if value < 1:
                raise UserError(f"--{option} must be at least 1, not {value}")
        if not learning_rate > 0:
            raise UserError(f"--learning-rate must be above 0, not {learning_rate}")
        if processes is not None and processes < 0:
            raise UserError(f"--processes must be at least 0, not {processes}")
        designs = names_of("--mixers", mixers)
        for design in designs:
            try:
                blocks_of(design.split("-then-"), "swiglu")
            except ValueError as error:
                raise UserError(f"--mixers {design}: {error}") from None
        shared = {
            "text": text,
            "batch_size": batch_size,
            "length": length,
            "learning_rate": learning_rate,
            "rank": rank,
            "num_activations": num_activations,
        }
        names = names_of("--joins", joins)
        highest = max(join_arguments(name, rank=rank, num_activations=num_activations)[1]["rank"] for name in names)
        jobs = [
            Run(design, join, width, blocks, budget, seed, **shared)
            for seed in seed_list(first_seed, seeds)
            for budget in sorted(_budgets(budgets))
            for width, blocks in _sizes(sizes, HEAD_DIM, highest)
            for design in designs
            for join in names
        ]
        left = missing(jobs, out)
        if len(left) < len(jobs):
            print(f"{len(jobs) - len(left)} of {len(jobs)} runs are there already")
        command = shlex.join(["python", "-m", "benchmarks.isoflop", *sys.argv[1:]])
        record = functools.partial(record_of, command=command)
        with stopped(f"the same command goes on in {out}"), progress(left, _found) as on_end:
            run_jobs(left, out, record, available_processes(processes, len(left)), on_end)
        _show(out)


@app.command()
def report(
    folder: Annotated[str, typer.Argument(help="Folder of records.")],
    plot: Annotated[str | None, typer.Option(help="Where to draw them, such as isoflop.png.")] = None,
):
    """Shows what the runs in a folder have found."""
    with errors():
        result = _show(folder)
        if plot:
            from benchmarks.isoflop import report as reporting

            reporting.plot(result, plot)


def _found(record):
    return "diverged" if record["loss"] is None else f"{record['loss']:.4f}"


def _show(folder):
    from benchmarks.isoflop import report as reporting

    result = combined(records_of(folder))
    print_table(reporting.TITLE, *reporting.table_cells(result))
    print_table("losses minus those of the plain residual at the same sizes", *reporting.paired_cells(result))
    print_table("power laws", *reporting.exponent_cells(result))
    print(reporting.CAVEAT)
    return result


def _budgets(text):
    try:
        budgets = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--budgets takes numbers divided by commas, not {text!r}") from None
    if min(budgets) <= 0 or len(set(budgets)) < len(budgets):
        raise UserError(f"--budgets must be above 0, each once, not {text}")
    return budgets


def _sizes(text, head_dim, rank):
    sizes = []
    for part in text.split(","):
        width, _, blocks = part.strip().partition("x")
        if not (width.isdecimal() and blocks.isdecimal() and int(blocks)):
            raise UserError(f"--sizes takes WIDTHxBLOCKS such as 64x3, not {part!r}")
        if int(width) % head_dim or int(width) <= rank:
            raise UserError(f"widths must be multiples of {head_dim} above the rank, {rank}, not {width}")
        sizes.append((int(width), int(blocks)))
    if len(set(sizes)) < len(sizes):
        raise UserError(f"--sizes names a size twice: {text}")
    return sizes


if __name__ == "__main__":
    app()
