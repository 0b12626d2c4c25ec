"""The command line: `python -m applications.laurel_resnet50 --help`."""

import sys
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
from applications.laurel_resnet50 import configs
from applications.memory import keep_freed_memory

MODULE = "applications.laurel_resnet50"
TITLE = "accuracy on the test images, mean ± standard deviation over the seeds"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

ConfigName = Annotated[str, typer.Option("--config", help=f"Named settings: {', '.join(configs.CONFIGS)}.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="tfds:NAME; folder:PATH with split/class/*.jpg or png; keras:cifar10, ...; or digits.",
        show_default="the config's",
    ),
]
DataDir = Annotated[str | None, typer.Option(help="Folder of TFDS.", show_default="TFDS's own")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, any field of configs.Config; may be repeated.")
]
Residual = Annotated[
    str | None, typer.Option(help="The join: add, rw, lr, pa or a sum such as rw+lr.", show_default="the config's")
]
NumBlocks = Annotated[
    str | None, typer.Option(help="Blocks of the four stages, such as 3,4,7,3.", show_default="the config's")
]
Seed = Annotated[int | None, typer.Option(help="Of weights and batches.", show_default="the config's")]


@app.callback()
def main():
    """Trains ResNet-50 with plain or LAuReL joins on ImageNet, CIFAR-10, digits or images of your own."""
    keep_freed_memory()


@app.command()
def train(
    config: ConfigName = "imagenet_90ep",
    data: Data = None,
    data_dir: DataDir = None,
    settings: Settings = None,
    residual: Residual = None,
    num_blocks: NumBlocks = None,
    seed: Seed = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder of the run; made if missing. A run that stopped goes on.",
            show_default="runs/laurel_resnet50/CONFIG/RESIDUAL-seedN",
        ),
    ] = None,
    backend: BackendName = None,
    distribution: DistributionName = "none",
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few steps of the whole network on the built-in digits.")
    ] = False,
):
    """Trains one model. Started again after a stop, it goes on from the last epoch that ended.

    On 8 GPUs: python -m torch.distributed.run --standalone --nproc-per-node=8 -m applications.laurel_resnet50 train
    --backend torch --distribution data. On TPUs: --backend jax --distribution data, on all machines of a slice at once.
    """
    with errors():
        name = "smoke" if smoke else config
        changed = _config(name, data, data_dir, settings, residual, num_blocks, seed)
        choose_backend(backend)
        spread = _distributed(distribution)
        from applications.laurel_resnet50.train import run

        folder = out or f"runs/laurel_resnet50/{name}/{changed.residual}-seed{changed.seed}"
        with stopped(f"the same command goes on from the last whole epoch in {folder}"):
            verbose = 1 if sys.stdout.isatty() else 2
            record = run(changed, folder, origin(MODULE), verbose, spread)
        if spread.is_chief:
            print(f"test: {words(record['test'])}")
            print(f"written: {folder}/result.json, epochs.csv, last.weights.h5, tensorboard")


@app.command()
def experiment(
    config: ConfigName = "cifar10_small",
    data: Data = None,
    data_dir: DataDir = None,
    settings: Settings = None,
    variants: Annotated[
        str,
        typer.Option(
            help="Comma-separated joins; add+1 has one more block in the third stage, rw+lr@rank=8 another rank."
        ),
    ] = ",".join(configs.VARIANTS),
    seeds: Seeds = 3,
    first_seed: FirstSeed = 0,
    out: Annotated[
        str | None,
        typer.Option(help="Folder of the records; made if missing.", show_default="runs/laurel_resnet50/CONFIG"),
    ] = None,
    backend: BackendName = None,
    distribution: DistributionName = "none",
):
    """Trains each variant with each seed, one after the other. Started again after a stop, it goes on."""
    with errors():
        changed = _config(config, data, data_dir, settings)
        all_seeds = seed_list(first_seed, seeds)
        choose_backend(backend)
        spread = _distributed(distribution)
        from applications.laurel_resnet50 import report
        from applications.laurel_resnet50.experiment import experiment as run_all

        def on_run(name, state):
            if spread.is_chief:
                print(f"{name}: {state if isinstance(state, str) else words(state['test'])}", flush=True)

        names = [name.strip() for name in variants.split(",")]
        folder = out or f"runs/laurel_resnet50/{config}"
        with stopped(f"the same command goes on in {folder}"):
            records = run_all(changed, names, all_seeds, folder, origin(MODULE), on_run, spread)
        if spread.is_chief:
            print_table(TITLE, *report.table_cells(report.combined(records)))


@app.command()
def throughput(
    config: ConfigName = "imagenet_90ep",
    data: Data = None,
    data_dir: DataDir = None,
    settings: Settings = None,
    residual: Residual = None,
    num_blocks: NumBlocks = None,
    steps: Annotated[int, typer.Option(help="Training steps to measure.")] = 20,
    backend: BackendName = None,
):
    """Measures images a second: of the input pipeline, of the model on a fixed batch, and of both together."""
    with errors():
        changed = _config(config, data, data_dir, settings, residual, num_blocks)
        if steps < 1:
            raise UserError(f"--steps must be at least 1, not {steps}")
        choose_backend(backend)
        from applications.laurel_resnet50.throughput import throughput as measure

        for name, rate in measure(changed, steps).items():
            print(f"{name}: {rate:.1f} images/s")


def _distributed(kind):
    """Returns the `Distribution`; before it is there, nothing may use a device."""
    from applications.distribution import distributed
    from keras_laurel.applications.laurel_resnet50_layout import laurel_resnet50_layout_map

    return distributed(kind, laurel_resnet50_layout_map)


def _config(name, data, data_dir, settings, residual=None, num_blocks=None, seed=None):
    """Returns the config of that name with what the options say; an option outdoes `--set`."""
    options = {"data": data, "data_dir": data_dir, "residual": residual, "num_blocks": num_blocks, "seed": seed}
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    return configs.with_settings(configs.named(name), [*(settings or []), *given])


if __name__ == "__main__":
    app()
