"""The command line: `python -m benchmarks.generate_speed --help`."""

import json
import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from applications.backend import choose_backend
from applications.commands import BackendName, errors, print_table
from applications.errors import UserError
from applications.files import writable_file, write_whole
from applications.memory import keep_freed_memory

PROMPT_LENGTH = 8

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    variants: Annotated[
        str,
        typer.Option(
            help="Comma-separated, ratios are to the first; llama is keras_hub's, rw@folded what `fold` leaves, "
            "add@mixers=mamba has another mixer."
        ),
    ] = "llama,add,rw,rw@folded,rw+lr,rw+lr@folded,rw+lr+pa,rw+lr+pa@folded",
    num_layers: Annotated[int, typer.Option(help="Blocks of the decoder.")] = 4,
    hidden_dim: Annotated[int, typer.Option(help="Width of the stream, a multiple of 64: heads are 32 wide.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Sequences generated at once.")] = 4,
    length: Annotated[int, typer.Option(help=f"Tokens of a sequence with its prompt, above {PROMPT_LENGTH}.")] = 128,
    rounds: Annotated[int, typer.Option(help="Calls of each variant that count.")] = 25,
    backend: BackendName = None,
    out: Annotated[
        str | None,
        typer.Option(help="JSON file; folders are made.", show_default="runs/generate_speed_BACKEND.json"),
    ] = None,
):
    """Times `generate` of the decoder with each join beside keras_hub's Llama, in random order, in one process.

    Prefill is a prompt of all but one token, decoding one of eight tokens, both of token ids, greedy and without a
    stop token. Each call ends when its tokens are in an array of NumPy. First calls, which compile, are reported and
    do not count.
    """
    keep_freed_memory()
    with errors():
        settings = {
            "variants": variants,
            "num_layers": num_layers,
            "hidden_dim": hidden_dim,
            "batch_size": batch_size,
            "length": length,
            "rounds": rounds,
            "backend": choose_backend(backend),
        }
        run(settings, Path(out or f"runs/generate_speed_{settings['backend']}.json"))


def run(settings, path):
    """Times the variants, writes the result and prints its table.

    Args:
        settings: Dictionary of the command's options but `out`, by name.
        path: Path of the result.

    Raises:
        UserError: If an option is out of range, or the result cannot be written.
    """
    names = [name.strip() for name in settings["variants"].split(",")]
    _check(settings, names)
    writable_file(path)
    from applications.provenance import provenance  # imports Keras, so the backend must have been chosen
    from benchmarks.generate_speed_report import table_cells

    options = [item for key, value in settings.items() for item in (f"--{key.replace('_', '-')}", str(value))]
    result = {
        "program": "generate_speed",
        "command": shlex.join(["python", "-m", "benchmarks.generate_speed", *options]),
        "settings": settings,
        **provenance(),
        "new_tokens": settings["batch_size"] * (settings["length"] - PROMPT_LENGTH),
    }
    print(f"{len(names)} variants on {settings['backend']}, {result['device']}", flush=True)
    result["variants"] = measure(names, settings)
    write_whole(path, lambda temporary: Path(temporary).write_text(json.dumps(result)))
    print_table("median; ratio of times to the first: median (quartiles)", *table_cells(result), width=170)
    print(f"written: {path}")


def measure(names, settings):
    """Builds the variants and times them.

    Args:
        names: The variants; the first is the reference.
        settings: See `run`.

    Returns:
        Dictionary of variants to dictionaries of `weights`, `jit_compile`, `compile_seconds` of the first call, and
        `seconds` for `"prefill"` and for `"decode"`: lists of one a round, by clock.
    """
    from benchmarks.decoder import build, prompts
    from benchmarks.timing import ratios, side_by_side

    modes = {
        "prefill": prompts(settings["batch_size"], settings["length"], settings["length"] - 1),
        "decode": prompts(settings["batch_size"], settings["length"], PROMPT_LENGTH),
    }
    record, models = {}, {}
    for name in names:
        model = models[name] = build(name, settings["num_layers"], settings["hidden_dim"])
        start = time.perf_counter()
        _call(model, modes["prefill"])()
        first = round(time.perf_counter() - start, 3)
        record[name] = {
            "weights": model.count_params(),
            "jit_compile": model.jit_compile,
            "compile_seconds": first,
            "seconds": {},
        }
        print(f"{name}: first call {first:.1f} s", flush=True)
    for mode, inputs in modes.items():
        seconds = side_by_side({name: _call(model, inputs) for name, model in models.items()}, settings["rounds"])
        for clock, measured in seconds.items():
            for name, (low, middle, high) in ratios(measured).items():
                record[name]["seconds"].setdefault(mode, {})[clock] = [round(value, 6) for value in measured[name]]
                print(f"{name}: {mode} {clock} {middle:.3f} ({low:.3f}-{high:.3f})", flush=True)
    return record


def _call(model, inputs):
    return lambda: model.generate(inputs, stop_token_ids=None)


def _check(settings, names):
    from benchmarks.decoder import HEAD_DIM, KNOWN_VARIANTS

    for name in names:
        if name not in KNOWN_VARIANTS:
            raise UserError(f"unknown variant {name!r}; known: {', '.join(KNOWN_VARIANTS)}")
    if len(set(names)) < len(names):
        raise UserError(f"a variant is named twice in {settings['variants']!r}")
    for key, least in {"num_layers": 1, "batch_size": 1, "rounds": 1, "length": PROMPT_LENGTH + 1}.items():
        if settings[key] < least:
            raise UserError(f"--{key.replace('_', '-')} must be at least {least}, not {settings[key]}")
    if settings["hidden_dim"] < 1 or settings["hidden_dim"] % (2 * HEAD_DIM):
        raise UserError(f"--hidden-dim must be a multiple of {2 * HEAD_DIM}, not {settings['hidden_dim']}")


if __name__ == "__main__":
    app()
