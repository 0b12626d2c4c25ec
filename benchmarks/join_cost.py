"""The command line: `python -m benchmarks.join_cost --help`."""

from typing import Annotated

import typer

from applications.backend import choose_backend
from applications.commands import BackendName, errors, origin, print_table
from applications.errors import UserError
from applications.files import writable_file, write_json
from applications.memory import keep_freed_memory
from applications.variants import check_names

MODES = {"jax": ("jit",), "tensorflow": ("graph", "xla"), "torch": ("eager", "compile")}
TYPES = ("float32", "mixed_bfloat16")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    variants: Annotated[
        str, typer.Option(help="Joins, comma-separated; ratios are to the first.")
    ] = "add,rw,lr,pa,rw+lr,rw+lr+pa",
    shape: Annotated[str, typer.Option(help="Of each tensor, channels last.")] = "8x512x768",
    rank: Annotated[int, typer.Option(help="Rank of the low-rank maps.")] = 32,
    num_activations: Annotated[int, typer.Option(help="States that pa weighs.")] = 3,
    precision: Annotated[str, typer.Option(help=f"Keras's dtype policy: {', '.join(TYPES)}.")] = "float32",
    rounds: Annotated[int, typer.Option(help="Measurements of each.")] = 25,
    calls: Annotated[
        int, typer.Option(help="Calls in a measurement, which then waits for the device: ten or more on a GPU.")
    ] = 1,
    backend: BackendName = None,
    modes: Annotated[
        str | None,
        typer.Option(help="Of jit; graph, xla; eager, compile; comma-separated.", show_default="all of the backend"),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="JSON file; folders are made.", show_default="runs/join_cost_BACKEND.json")
    ] = None,
):
    """Times one join alone, forward and with its gradients, beside its floor and beside the plain residual.

    The floor is the time of the bytes that the join must move, at the rate of a copy, and of the matmuls that it must
    do, at the rate of a square matmul of as many rows; both rates are measured among the rounds. Counted forward: each
    input read and the output written. Counted for the gradients: the output's gradient, the states that are weighed
    (for the gradients of gamma and the maps, and of beta) and, for alpha, the branch's output read; the gradient of
    each input written unless it is the output's own. Weights are small and not counted.
    """
    keep_freed_memory()
    with errors():
        chosen = choose_backend(backend)
        from keras_laurel.joins import WORDS

        names = [name.strip() for name in variants.split(",")]
        check_names(names, WORDS)
        wanted = modes.split(",") if modes else MODES[chosen]
        for mode in wanted:
            if mode not in MODES[chosen]:
                raise UserError(f"unknown mode {mode!r}; known on {chosen}: {', '.join(MODES[chosen])}")
        if precision not in TYPES:
            raise UserError(f"unknown precision {precision!r}; known: {', '.join(TYPES)}")
        counts = {"rank": rank, "num_activations": num_activations, "rounds": rounds, "calls": calls}
        for option, value in counts.items():
            if value < 1:
                raise UserError(f"--{option.replace('_', '-')} must be at least 1, not {value}")
        try:
            sizes = tuple(int(size) for size in shape.split("x"))
        except ValueError:
            raise UserError(f"--shape must be sizes such as 8x512x768, not {shape!r}") from None
        if len(sizes) < 2 or min(sizes) < 1 or sizes[-1] <= rank:
            raise UserError(f"--shape must have two sizes or more, the last above the rank, not {shape!r}")
        path = writable_file(out or f"runs/join_cost_{chosen}.json")
        import keras

        keras.config.set_dtype_policy(precision)
        result = {
            "program": "join_cost",
            "settings": {"shape": sizes, **counts},
            **origin("benchmarks.join_cost"),
            "modes": {mode: measure(names, mode, sizes, **counts) for mode in wanted},
        }
        write_json(path, result)
        from benchmarks.join_cost_report import table_cells

        print_table("CPU time, or a GPU's: median; ratios: median (quartiles)", *table_cells(result), width=200)
        print(f"written: {path}")


def measure(names, mode, shape, rank, num_activations, rounds, calls=1):
    """Times the joins and the two rates in one mode.

    Args:
        names: Words for `keras_laurel.residual`.
        mode: How the backend computes, of `MODES`.
        shape: Tuple of sizes, of each tensor.
        rank: See `keras_laurel.residual`.
        num_activations: See `keras_laurel.residual`.
        rounds: Number of rounds.
        calls: Number of calls in a round.

    Returns:
        Dictionary of `rates`: the bytes of `copy` and the operations of `matmul` with their seconds; and `joins`:
        by name what they must do in `forward` and in `both`, and their seconds a call: lists of one a round, by clock.
    """
    from benchmarks import join
    from benchmarks.timing import side_by_side

    steps, needs = {}, {}
    for kind, (step, need) in join.rates(mode, shape, calls).items():
        steps[f"rate {kind}"], needs[f"rate {kind}"] = step, need
    for name in names:
        forward, both = join.steps(name, mode, shape, rank, num_activations, calls)
        for part, step in (("forward", forward), ("both", both)):
            steps[f"{name} {part}"] = step
            needs[f"{name} {part}"] = join.needs(name, shape, rank, num_activations, part)
    seconds = side_by_side(steps, rounds)

    def record(key):
        measured = {clock: [round(value / calls, 7) for value in values[key]] for clock, values in seconds.items()}
        return {"needs": needs[key], "seconds": measured}

    return {
        "rates": {kind: record(f"rate {kind}") for kind in ("copy", "matmul")},
        "joins": {name: {part: record(f"{name} {part}") for part in ("forward", "both")} for name in names},
    }


if __name__ == "__main__":
    app()
