"""The command line: `python -m benchmarks.step_time --help`."""

import functools
import json
import math
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

MODES = ("train", "infer")
PRECISIONS = ("float32", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16")
JIT = {"true": True, "false": False, "auto": "auto"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

Variants = Annotated[str, typer.Option(help="Comma-separated; ratios are to the first.")]
BatchSize = Annotated[int, typer.Option(help="Examples in a step.")]
Rounds = Annotated[int, typer.Option(help="Steps of each variant that count.")]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        help="Ends the rounds of a mode after so many seconds, with the round that has begun.", show_default="none"
    ),
]
Precision = Annotated[str, typer.Option(help=f"Keras's dtype policy: {', '.join(PRECISIONS)}.")]
Jit = Annotated[str, typer.Option(help="Keras's jit_compile: true, false or auto.")]
FitSteps = Annotated[
    int,
    typer.Option(help="Training steps of a `fit` that is measured whole and divided by them; 0 for train_on_batch."),
]
Mode = Annotated[str, typer.Option(help="train, infer or both.")]
Out = Annotated[
    str | None,
    typer.Option(help="JSON file; folders are made.", show_default="runs/step_time/SUBJECT_step_time_BACKEND.json"),
]


@app.callback()
def main():
    """Times training and inference of a model's variants, step by step in random order, in one process.

    A training step is `train_on_batch`, an inference step `predict_on_batch`, as Keras compiles them; each ends when
    the device has. The first steps, which compile, are reported and do not count. A GPU that waits for the host between
    such steps does so less in a `fit` (`--fit-steps`).
    """
    keep_freed_memory()


@app.command()
def resnet50(
    variants: Variants = "keras,add,rw,rw+lr,rw+lr+pa,add+1",
    batch_size: BatchSize = 16,
    image_size: Annotated[int, typer.Option(help="Side of the images, at least 32.")] = 64,
    rounds: Rounds = 15,
    max_seconds: MaxSeconds = None,
    precision: Precision = "float32",
    jit: Jit = "auto",
    fit_steps: FitSteps = 0,
    mode: Mode = "both",
    backend: BackendName = None,
    out: Out = None,
):
    """ResNet-50: keras (keras.applications.ResNet50), add+1 (one more block), and add, rw, ... of LaurelResNet50."""
    with errors():
        chosen = choose_backend(backend)
        from benchmarks import resnet50 as subject

        if image_size < 32:
            raise UserError(f"--image-size must be at least 32, not {image_size}")
        settings = {
            "variants": variants,
            "batch_size": batch_size,
            "image_size": image_size,
            "rounds": rounds,
            **({} if max_seconds is None else {"max_seconds": max_seconds}),
            **({"fit_steps": fit_steps} if fit_steps else {}),
            "precision": precision,
            "jit": jit,
            "mode": mode,
            "backend": chosen,
        }
        run(
            "resnet50",
            settings,
            out,
            known=subject.KNOWN_VARIANTS,
            build=lambda variant: subject.build(variant, image_size, JIT[jit]),
            batch=lambda: subject.batch(batch_size, image_size),
        )


@app.command()
def decoder(
    variants: Variants = "add,rw,lr,pa,rw+lr,rw+lr+pa,add+1",
    size: Annotated[
        str | None,
        typer.Option(help="Size of LaurelDecoderLM, such as 157m, in place of the next three.", show_default="none"),
    ] = None,
    joins: Annotated[str, typer.Option(help="sublayer, for two joins a block, or block.")] = "sublayer",
    num_layers: Annotated[int, typer.Option(help="Number of blocks.")] = 4,
    hidden_dim: Annotated[int, typer.Option(help="Width of the stream, a multiple of 64.")] = 512,
    batch_size: BatchSize = 4,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 256,
    rounds: Rounds = 15,
    max_seconds: MaxSeconds = None,
    precision: Precision = "float32",
    jit: Jit = "auto",
    fit_steps: FitSteps = 0,
    mode: Mode = "train",
    backend: BackendName = None,
    out: Out = None,
):
    """A decoder of a size that fits the machine, with few tokens, or LaurelDecoderLM; add+1, add+4 have more blocks."""
    with errors():
        chosen = choose_backend(backend)
        from benchmarks import decoder as subject

        if size is not None and size not in subject.SIZES:
            raise UserError(f"unknown size {size!r}; known: {', '.join(subject.SIZES)}")

        if joins not in ("sublayer", "block"):
            raise UserError(f"unknown joins {joins!r}; known: sublayer, block")
        for option, value in (("num-layers", num_layers), ("length", length)):
            if value < 1:
                raise UserError(f"--{option} must be at least 1, not {value}")
        if hidden_dim < 64 or hidden_dim % 64:
            raise UserError(f"--hidden-dim must be a multiple of 64, not {hidden_dim}")
        shape = {"joins": joins, "num_layers": num_layers, "hidden_dim": hidden_dim} if size is None else {"size": size}
        settings = {
            "variants": variants,
            **shape,
            "batch_size": batch_size,
            "length": length,
            "rounds": rounds,
            **({} if max_seconds is None else {"max_seconds": max_seconds}),
            **({"fit_steps": fit_steps} if fit_steps else {}),
            "precision": precision,
            "jit": jit,
            "mode": mode,
            "backend": chosen,
        }
        run(
            "decoder",
            settings,
            out,
            known=subject.KNOWN_TRAINING_VARIANTS,
            build=lambda variant: subject.build_for_training(variant, **shape, jit_compile=JIT[jit]),
            batch=lambda: subject.batch(batch_size, length, size),
        )


@app.command("cifar10_small")
def cifar10_small(rounds: Rounds = 40, mode: Mode = "both", backend: BackendName = None, out: Out = None):
    """The network of the ResNet recipe's CIFAR-10 comparison, with each of its joins."""
    with errors():
        chosen = choose_backend(backend)
        from applications.laurel_resnet50 import configs
        from benchmarks import resnet50 as subject

        config = configs.CIFAR10_SMALL
        settings = {
            "variants": ",".join(configs.VARIANTS),
            "batch_size": config.batch_size,
            "rounds": rounds,
            "precision": "float32",
            "jit": "auto",
            "mode": mode,
            "backend": chosen,
        }
        run(
            "cifar10_small",
            settings,
            out,
            known=configs.VARIANTS,
            build=lambda variant: subject.build(variant, config.image_size, config=config, classes=10),
            batch=lambda: subject.batch(config.batch_size, config.image_size, classes=10),
            options=("rounds", "mode", "backend"),
        )


@app.command("cpp_docs_deep")
def cpp_docs_deep(rounds: Rounds = 40, backend: BackendName = None, out: Out = None):
    """The model of the decoder recipe's comparison, with each of its joins and those of other papers."""
    with errors():
        chosen = choose_backend(backend)
        from applications.laurel_decoder_lm import configs
        from benchmarks import decoder as subject

        config = configs.CPP_DOCS_DEEP
        settings = {
            "variants": ",".join(subject.COMPARED),
            "batch_size": config.batch_size,
            "rounds": rounds,
            "precision": "float32",
            "jit": "auto",
            "mode": "train",
            "backend": chosen,
        }
        run(
            "cpp_docs_deep",
            settings,
            out,
            known=subject.COMPARED,
            build=lambda variant: subject.build_of_recipe(variant, config),
            batch=lambda: subject.batch_of_recipe(config),
            options=("rounds", "backend"),
        )


def run(subject, settings, out, known, build, batch, options=None):
    """Times the variants of a subject, writes the result and prints its table.

    Args:
        subject: Name of the command.
        settings: Dictionary of what decides the measurement, by name.
        out: Path of the result, or `None` for the default.
        known: Names of the subject's variants.
        build: Function that takes a variant and returns its compiled model.
        batch: Function that returns inputs and targets.
        options: Names of the settings that the command has as options; all by default.

    Raises:
        UserError: If an option is out of range, or the result cannot be written.
    """
    names = [name.strip() for name in settings["variants"].split(",")]
    _check(settings, names, known)
    path = writable_file(out or f"runs/step_time/{subject}_step_time_{settings['backend']}.json")
    import keras

    from applications.provenance import provenance

    keras.config.set_dtype_policy(settings["precision"])
    if settings["backend"] == "torch":
        import torch

        # The models share the code that torch.compile makes a version of for each, and again for the optimizer's state.
        torch._dynamo.config.recompile_limit *= len(names)
    given = [item for key in options or settings for item in (f"--{key.replace('_', '-')}", str(settings[key]))]
    result = {
        "program": "step_time",
        "subject": subject,
        "command": shlex.join(["python", "-m", "benchmarks.step_time", subject, *given]),
        "settings": settings,
        **provenance(),
        "variants": {},
    }
    print(f"{len(names)} variants of {subject} on {settings['backend']}, {result['device']}", flush=True)
    modes = MODES if settings["mode"] == "both" else (settings["mode"],)
    max_seconds = settings.get("max_seconds", math.inf)
    fit_steps = settings.get("fit_steps", 0)
    measure(names, modes, settings["rounds"], build, batch, result["variants"], max_seconds, fit_steps)
    write_whole(path, lambda temporary: Path(temporary).write_text(json.dumps(result)))
    from benchmarks.step_time_report import table_cells

    print_table("seconds a step: median; ratios to the first: median (quartiles)", *table_cells(result), width=190)
    print(f"written: {path}")


def measure(names, modes, rounds, build, batch, record, max_seconds=math.inf, fit_steps=0):
    """Builds the variants and times them in each mode.

    Args:
        names: The variants; the first is the reference.
        modes: What to time, of `MODES`.
        rounds: Number of rounds.
        build: See `run`.
        batch: See `run`.
        record: Dictionary to fill: of variants to dictionaries of `weights`, `jit_compile`, and by mode
            `compile_seconds`, of the first step, `memory`, the bytes that a step takes (see `step_memory`), and
            `seconds`: lists of one a round, by clock.
        max_seconds: See `side_by_side`.
        fit_steps: Training steps of a `fit` that is timed in place of one step; 0 for one step.
    """
    import keras

    from benchmarks import step_memory
    from benchmarks.timing import ratios, side_by_side

    inputs, targets = batch()
    steps = {mode: {} for mode in modes}
    for name in names:
        keras.utils.set_random_seed(0)
        model = build(name)
        record[name] = {
            "weights": sum(math.prod(weight.shape) for weight in model.trainable_weights),
            "jit_compile": model.jit_compile,
            "compile_seconds": {},
            "memory": {},
            "seconds": {},
        }
        for mode in modes:
            step = _train_step(model, inputs, targets) if mode == "train" else _infer_step(model, inputs)
            with step_memory.first_step() as memory:
                start = time.perf_counter()
                step()
                first = record[name]["compile_seconds"][mode] = round(time.perf_counter() - start, 6)
            record[name]["memory"][mode] = memory(step)
            print(f"{name}: first {mode} step {first:.1f} s", flush=True)
            fit = _fit(model, inputs, targets, fit_steps) if mode == "train" and fit_steps else None
            steps[mode][name] = fit or step
    for mode in modes:
        # Two more, as a step may compile again for the optimizer's state that the first one made.
        progress = functools.partial(_print_round, mode, rounds)
        seconds = side_by_side(steps[mode], rounds, warmup=2, on_round=progress, max_seconds=max_seconds)
        if mode == "train" and fit_steps:
            seconds = keras.tree.map_structure(lambda value: value / fit_steps, seconds)
        for clock, measured in seconds.items():
            for name, (low, middle, high) in ratios(measured).items():
                record[name]["seconds"].setdefault(mode, {})[clock] = [round(value, 6) for value in measured[name]]
                print(f"{name}: {mode} {clock} {middle:.3f} ({low:.3f}-{high:.3f})", flush=True)


def _print_round(mode, rounds, number):
    print(f"{mode}: round {number} of {rounds}", flush=True)


def _train_step(model, inputs, targets):
    import numpy as np

    def step():
        loss = float(np.ravel(model.train_on_batch(inputs, targets))[0])
        _wait(model)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of {model.name} is {loss}")

    return step


def _fit(model, inputs, targets, steps):
    import keras

    class Repeated(keras.utils.PyDataset):
        def __len__(self):
            return steps

        def __getitem__(self, index):
            return inputs, targets

    def fit():
        keras.Model.fit(model, Repeated(), verbose=0)  # not keras_hub's, which would prepare strings
        _wait(model)

    return fit


def _infer_step(model, inputs):
    return lambda: model.predict_on_batch(inputs)  # an array of NumPy, so the device has ended


def _wait(model):
    """Waits for the weights that a training step wrote, which its loss may come before."""
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        jax.block_until_ready([variable.value for variable in [*model.variables, *model.optimizer.variables]])
    elif backend == "tensorflow":
        import tensorflow as tf

        tf.test.experimental.sync_devices()
    else:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def _check(settings, names, known):
    for name in names:
        if name not in known:
            raise UserError(f"unknown variant {name!r}; known: {', '.join(known)}")
    if len(set(names)) < len(names):
        raise UserError(f"a variant is named twice in {settings['variants']!r}")
    if settings.get("fit_steps", 0) < 0:
        raise UserError(f"--fit-steps must be at least 0, not {settings['fit_steps']}")
    if settings.get("max_seconds", 1) <= 0:
        raise UserError(f"--max-seconds must be above 0, not {settings['max_seconds']}")
    for key in ("batch_size", "rounds"):
        if settings[key] < 1:
            raise UserError(f"--{key.replace('_', '-')} must be at least 1, not {settings[key]}")
    for key, choices in (("precision", PRECISIONS), ("jit", tuple(JIT)), ("mode", (*MODES, "both"))):
        if settings[key] not in choices:
            raise UserError(f"unknown {key} {settings[key]!r}; known: {', '.join(choices)}")


if __name__ == "__main__":
    app()
