"""The command line: `python -m applications.laurel_decoder_lm --help`."""

from typing import Annotated

import typer

from applications.backend import choose_backend
from applications.commands import (
    BackendName,
    DistributionName,
    FirstSeed,
    Seeds,
    errors,
    origin,
    print_table,
    seed_list,
    stopped,
    words,
)
from applications.errors import UserError
from applications.laurel_decoder_lm import configs
from applications.memory import keep_freed_memory

MODULE = "applications.laurel_decoder_lm"
TITLE = "loss in nats a token, mean ± standard deviation over the seeds; the others beside add"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

ConfigName = Annotated[str, typer.Option("--config", help=f"Named settings: {', '.join(configs.CONFIGS)}.")]
Text = Annotated[
    str | None,
    typer.Option(
        help="shakespeare, built in; files:GLOB[,GLOB...], plain, .xz or .gz; or tfds:NAME.",
        show_default="the config's",
    ),
]
TestText = Annotated[str | None, typer.Option(help="Text for the end, in the same forms.", show_default="the config's")]
DataDir = Annotated[str | None, typer.Option(help="Folder of TFDS and of unpacked files.", show_default="the config's")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, any field of configs.Config; may be repeated.")
]
Residual = Annotated[
    str | None, typer.Option(help="The join: add, rw, lr, pa or a sum such as rw+lr.", show_default="the config's")
]
Seed = Annotated[int | None, typer.Option(help="Of weights and the order of the text.", show_default="the config's")]
Run = Annotated[str, typer.Argument(help="Folder of a run that has ended or stopped.")]


@app.callback()
def main():
    """Trains a decoder language model with plain or LAuReL joins on text, and looks at what it has learned."""
    keep_freed_memory()


@app.command()
def train(
    config: ConfigName = "small",
    text: Text = None,
    test_text: TestText = None,
    data_dir: DataDir = None,
    settings: Settings = None,
    residual: Residual = None,
    seed: Seed = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder of the run; made if missing. A run that stopped goes on.",
            show_default="runs/laurel_decoder_lm/CONFIG/RESIDUAL-seedN",
        ),
    ] = None,
    backend: BackendName = None,
    distribution: DistributionName = "none",
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few steps of a tiny model on the built-in text; less than a minute.")
    ] = False,
):
    """Trains one model. Started again after a stop, it goes on from the last checkpoint and ends as if never stopped.

    Such as: train --config small --text "files:notes/*.txt" --set steps=2000 --set tokenizer=bpe:4000

    On 8 GPUs: python -m torch.distributed.run --standalone --nproc-per-node=8 -m applications.laurel_decoder_lm train
    --backend torch --distribution data. On TPUs: --backend jax --distribution data, on all machines of a slice at once.
    """
    with errors():
        name = "smoke" if smoke else config
        changed = _config(
            name, settings, text=text, test_text=test_text, data_dir=data_dir, residual=residual, seed=seed
        )
        choose_backend(backend)
        spread = _distributed(distribution)
        from applications.laurel_decoder_lm.train import run

        folder = out or f"runs/laurel_decoder_lm/{name}/{changed.residual}-seed{changed.seed}"
        with stopped(f"the same command goes on from the last checkpoint in {folder}"):
            record = run(changed, folder, origin(MODULE), spread)
        if spread.is_chief:
            if record["test"]:
                print(f"test: {words(record['test'])}")
            print(f"written: {folder}/result.json, preset, losses.csv, held_out.csv, samples.txt, tensorboard")


@app.command()
def experiment(
    config: ConfigName = "cpp_docs_small",
    text: Text = None,
    test_text: TestText = None,
    data_dir: DataDir = None,
    settings: Settings = None,
    variants: Annotated[
        str,
        typer.Option(
            help="Comma-separated joins; add+1 has one more block, rw+lr@rank=8 another rank. Of other papers: rezero, "
            "layerscale, hyperconnections and denseformer@num_activations=NUMBER_OF_JOINS."
        ),
    ] = ",".join(configs.VARIANTS),
    seeds: Seeds = 3,
    first_seed: FirstSeed = 0,
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the records; made if missing.", show_default="runs/laurel_decoder_lm/CONFIG"),
    ] = None,
    backend: BackendName = None,
    distribution: DistributionName = "none",
):
    """Trains each variant with each seed, one after the other. Started again after a stop, it goes on."""
    with errors():
        changed = _config(config, settings, text=text, test_text=test_text, data_dir=data_dir)
        all_seeds = seed_list(first_seed, seeds)
        choose_backend(backend)
        spread = _distributed(distribution)
        from applications.laurel_decoder_lm import report
        from applications.laurel_decoder_lm.experiment import experiment as run_all

        def on_run(name, state):
            if spread.is_chief:
                print(f"{name}: {state if isinstance(state, str) else words(report.final(state))}", flush=True)

        names = [name.strip() for name in variants.split(",")]
        folder = out or f"runs/laurel_decoder_lm/{config}"
        with stopped(f"the same command goes on in {folder}"):
            records = run_all(changed, names, all_seeds, folder, origin(MODULE), on_run, spread)
        if spread.is_chief:
            print_table(TITLE, *report.table_cells(report.combined(records)))


@app.command()
def evaluate(
    run: Run,
    split: Annotated[str, typer.Option(help="held_out or test.")] = "held_out",
    text: Annotated[
        str | None, typer.Option(help="Another text, in the forms of train; all of it.", show_default="the run's")
    ] = None,
    backend: BackendName = None,
):
    """Says loss, perplexity and bits per byte on all of the held-out documents, the test documents or another text."""
    with errors():
        if split not in ("held_out", "test"):
            raise UserError(f"unknown split {split!r}; known: held_out, test")
        choose_backend(backend)
        from applications.laurel_decoder_lm.evaluation import evaluate_run

        print(words(evaluate_run(run, split, text)))


@app.command()
def generate(
    run: Run,
    prompt: Annotated[str, typer.Option(help="What to go on from.")] = "The ",
    length: Annotated[
        int | None, typer.Option(help="Number of tokens, with the prompt.", show_default="the context of the model")
    ] = None,
    sampler: Annotated[str, typer.Option(help="greedy, top_k (40), top_p (0.9) or random.")] = "top_k",
    temperature: Annotated[float, typer.Option(help="Below 1 is bolder, above 1 stranger.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Of the sampler.")] = 0,
    backend: BackendName = None,
):
    """Writes on from a prompt."""
    with errors():
        choose_backend(backend)
        from applications.laurel_decoder_lm import generation
        from applications.laurel_decoder_lm.loading import load_config, load_model
        from applications.precision import precision

        made = generation.sampler(sampler, temperature, seed)
        with precision(load_config(run)):
            lm = load_model(run)
            lm.compile(sampler=made)
            print(generation.printable(generation.generate(lm, prompt, length)))


def _distributed(kind):
    """Returns the `Distribution`; before it is there, nothing may use a device."""
    from applications.distribution import distributed
    from keras_laurel.applications.laurel_decoder.layout import layout_map

    return distributed(kind, layout_map)


def _config(name, settings, **options):
    """Returns the config of that name with what the options say; an option outdoes `--set`."""
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    return configs.with_settings(configs.named(name), [*(settings or []), *given])


if __name__ == "__main__":
    app()
