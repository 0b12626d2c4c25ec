"""The command line: `python -m applications.tiny_lm --help`."""

import dataclasses
import json
import sys
from typing import Annotated

import typer

from applications.backend import choose_backend
from applications.commands import BackendName
from applications.errors import UserError
from applications.files import writable_folder, write_whole
from applications.memory import keep_freed_memory

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    variants: Annotated[
        str,
        typer.Option(
            help="Comma-separated joins to compare: add (plain residual), add+1 (one more block), rw, lr, pa, rw+lr, "
            "rw+pa, lr+pa, rw+lr+pa. Ratios are to the first."
        ),
    ] = "add,add+1,rw,lr,pa,rw+lr,rw+lr+pa",
    seeds: Annotated[int, typer.Option(help="How many seeds, 0, 1, ...; each trains all variants.")] = 1,
    steps: Annotated[int, typer.Option(help="Training steps of each variant.")] = 600,
    text: Annotated[
        str | None, typer.Option(help="A UTF-8 text file of your own.", show_default="tinyshakespeare, built in")
    ] = None,
    backend: BackendName = None,
    out: Annotated[
        str, typer.Option(help="Folder for results.json, results.csv and results.png; made if missing.")
    ] = "runs/tiny_lm",
    prompt: Annotated[str, typer.Option(help="Start of the generated line.")] = "ROMEO:",
):
    """Trains a small decoder LM once per kind of residual join, all on the same batches, and compares them.

    The model is a functional Keras model of about 0.8 million weights over characters; `add` is the plain residual
    x + f(x), the others are LAuReL joins. Every batch goes to all variants in random order, so that the ratios of
    their step times hold on a busy machine. The last tenth of the text is held out.

    Ctrl-C stops early and keeps what was measured.
    """
    keep_freed_memory()
    try:
        raise typer.Exit(run(variants, seeds, steps, text, choose_backend(backend), out, prompt))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


def run(variants, seeds, steps, text_path, backend, out, prompt):
    """Runs the comparison, writes its files and prints its table; returns the exit code."""
    from applications.provenance import provenance
    from applications.tiny_lm import compare, report
    from applications.tiny_lm.data import load_text

    names = [name.strip() for name in variants.split(",")]
    for name in names:
        if name not in compare.KNOWN_VARIANTS:
            raise UserError(f"unknown variant {name!r}; known: {', '.join(compare.KNOWN_VARIANTS)}")
    if len(set(names)) < len(names):
        raise UserError(f"a variant is named twice in {variants!r}")
    for option, value in (("--seeds", seeds), ("--steps", steps)):
        if value < 1:
            raise UserError(f"{option} must be at least 1, not {value}")
    config = compare.Config(steps=steps)
    text = load_text(text_path, config.context)
    unknown = sorted(set(prompt) - set(text.characters))
    if not prompt or unknown:
        raise UserError(f"the prompt {prompt!r} must be made of characters that the text has; not: {unknown}")
    folder = writable_folder(out)

    result = {
        "program": "tiny_lm",
        "command": f"python -m applications.tiny_lm --variants {variants} --seeds {seeds} --steps {steps}",
        "config": dataclasses.asdict(config),
        "text": text.name,
        **provenance(),
        "complete": False,
        "variants": {},
    }
    print(f"{len(names)} variants, {steps} steps, {seeds} seed(s) of {text.name} on {backend}, {result['device']}")
    models = train(result, names, seeds, config, text)
    runs = result["variants"][names[0]]["runs"]
    if not runs:
        print("stopped before the first evaluation: nothing to keep", file=sys.stderr)
        return 130
    write_whole(folder / "results.json", lambda path: _write_json(result, path))
    write_whole(folder / "results.csv", lambda path: report.write_csv(result, path))
    write_whole(folder / "results.png", lambda path: report.plot(result, path))
    _print_table(result)
    best = min(report.summary(result), key=lambda row: row["held_out_loss"])["variant"]
    sample = compare.generate(models[best], text, prompt, 100, config.context).replace("\n", " / ")
    print(f"\n{best} writes: {sample}")
    print(f"\nwritten: {folder}/results.json, results.csv, results.png")
    return 0 if result["complete"] else 130


def train(result, names, seeds, config, text):
    """Trains all seeds and fills `result["variants"]`; on Ctrl-C, keeps what was measured. Returns the last models."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from applications.tiny_lm import compare

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn()) as progress:
        task = progress.add_task("building", total=seeds * config.steps)
        for seed in range(seeds):
            progress.update(task, description=f"seed {seed}, building and compiling")
            models = {name: compare.build(name, config, len(text.characters), seed) for name in names}
            for name, model in models.items():
                result["variants"].setdefault(name, {"weights": model.count_params(), "runs": []})
            record = {name: {"seed": seed, "train_loss": [], "held_out": [], "step_seconds": []} for name in names}

            def on_step(step, seed=seed, record=record):
                losses = ", ".join(f"{name} {run['train_loss'][-1]:.2f}" for name, run in record.items())
                progress.update(task, advance=1, description=f"seed {seed}, step {step}")
                if step % config.evaluate_every == 0 or step == config.steps:
                    losses = ", ".join(f"{name} {run['held_out'][-1][1]:.3f}" for name, run in record.items())
                    progress.print(f"seed {seed}, step {step}, held-out loss: {losses}")

            try:
                compare.train_side_by_side(models, text, config, seed, record, on_step)
            except KeyboardInterrupt:
                progress.print("stopped: keeping what was measured")
                _keep(result, record)
                return models
            _keep(result, record)
    result["complete"] = True
    return models


def _keep(result, record):
    """Adds the runs of one seed to `result`, cut to what all variants have; none if one was never evaluated."""
    if not all(run["held_out"] for run in record.values()):
        return
    steps = min(len(run["train_loss"]) for run in record.values())
    evaluations = min(len(run["held_out"]) for run in record.values())
    for name, run in record.items():
        cut = {"train_loss": steps, "step_seconds": steps, "held_out": evaluations}
        result["variants"][name]["runs"].append({key: v[: cut[key]] if key in cut else v for key, v in run.items()})


def _write_json(result, path):
    with open(path, "w") as file:
        json.dump(result, file)


def _print_table(result):
    from rich.console import Console
    from rich.table import Table

    from applications.tiny_lm import report

    header, rows = report.table_cells(result)
    table = Table(title="Held-out loss in nats a character; step time: median ratio to the first variant (quartiles)")
    for name in header:
        table.add_column(name, justify="left" if name == "variant" else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=max(100, Console().width)).print(table)


if __name__ == "__main__":
    app()
