"""The command line: `python -m benchmarks.tpu_compile --help`."""

import functools
import json
import math
import os
import shlex
from typing import Annotated

import typer

from applications.backend import choose_backend
from applications.commands import errors, print_table
from applications.errors import UserError
from applications.files import writable_folder, write_json
from applications.variants import check_names

RATE, WEIGHT_DECAY, CLIP_NORM = 1e-3, 0.1, 1.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

Variants = Annotated[str, typer.Option(help="Comma-separated; ratios are to the first.")]
Topology = Annotated[str, typer.Option(help="TPU and shape of the slice, such as v6e:4x4 or v5e:16x16.")]
Out = Annotated[str, typer.Option(help="Folder of the records; those that are there are not made again.")]


@app.callback()
def main():
    """Compiles a step of a model's variants for TPUs, on a machine without any, and says what it takes.

    A training step is the one that `model.fit` runs, the compiler the TPU's own (libtpu). Weights are shapes without
    values, so that models compile that would not fit here. Per chip: memory, arithmetic, bytes moved and bytes sent.
    Nothing runs: there are no times. One compile takes minutes and one core; each leaves a record as it ends.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"


@app.command()
def decoder(
    out: Out,
    size: Annotated[str, typer.Option(help="Size of LaurelDecoderLM.")] = "157m",
    variants: Variants = "add,rw,lr,pa,rw+lr,rw+lr+pa",
    joins: Annotated[str, typer.Option(help="block, or sublayer for two a block.")] = "block",
    num_layers: Annotated[
        str | None,
        typer.Option(
            help="Numbers of blocks to compile, comma-separated; from two, tables go on in a straight line.",
            show_default="the size's",
        ),
    ] = None,
    topology: Topology = "v6e:4x4",
    mesh: Annotated[
        str, typer.Option(help="data, or DATAxMODEL to divide the weights by the decoder's layout, such as 4x4.")
    ] = "data",
    batch_size: Annotated[int, typer.Option(help="Sequences in a step of all chips.")] = 256,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 512,
    remat: Annotated[bool, typer.Option(help="Compute blocks again in the backward pass.")] = False,
    step: Annotated[
        str,
        typer.Option(help="train; or prefill, prompts of that length, and decode, one token more, both in bfloat16."),
    ] = "train",
):
    """LaurelDecoderLM; in training by AdamW with clipped gradients, in mixed_bfloat16."""
    with errors():
        choose_backend("jax")
        from keras_laurel.applications.laurel_decoder.layout import layout_map
        from keras_laurel.applications.laurel_decoder.sizes import SIZES
        from keras_laurel.joins import WORDS

        if size not in SIZES:
            raise UserError(f"unknown size {size!r}; known: {', '.join(SIZES)}")
        if joins not in ("block", "sublayer"):
            raise UserError(f"unknown joins {joins!r}; known: block, sublayer")
        if step not in ("train", "prefill", "decode"):
            raise UserError(f"unknown step {step!r}; known: train, prefill, decode")
        whole = SIZES[size]["num_layers"]
        settings = {
            "subject": "decoder",
            "size": size,
            "joins": joins,
            "model_layers": whole,
            "topology": topology,
            "mesh": mesh,
            "batch_size": batch_size,
            "length": length,
            "remat": remat,
            **({} if step == "train" else {"step": step}),
        }
        depths = [_positive("num_layers", number) for number in (num_layers or str(whole)).split(",")]
        run(
            settings,
            [(variant, depth) for depth in depths for variant in _names(variants, WORDS)],
            out,
            build=functools.partial(_decoder, size=size, joins=joins, remat=remat),
            batch=lambda: _tokens(batch_size, length),
            layout_map=layout_map,
        )


@app.command()
def resnet50(
    out: Out,
    variants: Variants = "add,rw,rw+lr,rw+lr+pa,add+1",
    topology: Topology = "v6e:4x4",
    batch_size: Annotated[int, typer.Option(help="Images in a step of all chips.")] = 2048,
    image_size: Annotated[int, typer.Option(help="Side of the images, at least 32.")] = 224,
):
    """ResNet-50, by SGD with momentum, in mixed_bfloat16; add+1 has one more block."""
    with errors():
        choose_backend("jax")
        from benchmarks import resnet50 as subject

        if image_size < 32:
            raise UserError(f"--image-size must be at least 32, not {image_size}")
        settings = {
            "subject": "resnet50",
            "topology": topology,
            "mesh": "data",
            "batch_size": batch_size,
            "image_size": image_size,
        }
        run(
            settings,
            [(variant, None) for variant in _names(variants, subject.KNOWN_VARIANTS)],
            out,
            build=lambda variant, num_layers: subject.build(variant, image_size),
            batch=lambda: _images(batch_size, image_size),
        )


def run(settings, jobs, out, build, batch, layout_map=None):
    """Compiles each job whose record is not there, writes its record, and prints the table.

    Args:
        settings: Dictionary of what decides the measurements.
        jobs: List of pairs of a variant and a number of blocks, or `None`.
        out: Folder of the records.
        build: Function of a variant and a number of blocks that returns a compiled model.
        batch: Function that returns the shapes of inputs and targets.
        layout_map: Function of a mesh, see `benchmarks.abstract_step.distribution`.

    Raises:
        UserError: If an option is out of range, libtpu is missing, or a record is there that has other settings.
    """
    import keras

    from applications.provenance import provenance
    from benchmarks import abstract_step, tpu_compile_report

    mesh = _mesh(settings["mesh"])
    folder = writable_folder(out)
    devices = abstract_step.tpus(settings["topology"])
    step = settings.get("step", "train")
    lower = {"train": abstract_step.train, "prefill": abstract_step.prefill, "decode": abstract_step.decode}[step]
    _check_division(settings, mesh, len(devices))
    records = []
    for variant, num_layers in jobs:
        own = {**settings, "variant": variant, "num_layers": num_layers}
        path = folder / f"{_name(own)}.json"
        if path.exists():
            record = json.loads(path.read_text())
            if record["settings"] != own:
                raise UserError(f"{path} is a record with other settings: choose another --out, or remove it")
            print(f"{path.stem}: there already", flush=True)
        else:
            print(f"{path.stem}: compiling", flush=True)
            keras.backend.clear_session()
            # Which the line above forgets.
            keras.config.set_dtype_policy("mixed_bfloat16" if step == "train" else "bfloat16")
            origin = provenance()
            record = {
                "program": "tpu_compile",
                "command": _command(own, out),
                **origin,
                "device": f"{devices[0].device_kind}, {len(devices)} chips, compiled on {origin['device']}",
                "versions": {**origin["versions"], **_libtpu()},
                "settings": own,
                "chips": len(devices),
                **abstract_step.measure(
                    functools.partial(build, variant, num_layers), lower, batch(), devices, mesh, layout_map
                ),
            }
            write_json(path, record)
            print(f"{path.stem}: {record['compile_seconds']:.0f} s", flush=True)
        records.append(record)
    print_table("of a chip", *tpu_compile_report.table_cells(tpu_compile_report.combined(records)), width=190)


def _decoder(variant, num_layers, size, joins, remat):
    import keras

    from keras_laurel.applications import LaurelDecoderLM

    model = LaurelDecoderLM(size, residual=variant, num_layers=num_layers, joins=joins, remat=remat)
    model.compile(
        keras.optimizers.AdamW(RATE, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP_NORM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=None,  # keras_hub would count right tokens
    )
    return model


def _tokens(batch_size, length):
    import jax

    tokens = jax.ShapeDtypeStruct((batch_size, length), "int32")
    return {"token_ids": tokens}, tokens


def _images(batch_size, image_size):
    import jax

    images = jax.ShapeDtypeStruct((batch_size, image_size, image_size, 3), "float32")
    return images, jax.ShapeDtypeStruct((batch_size,), "int32")


def _names(variants, known):
    names = [name.strip() for name in variants.split(",")]
    check_names(names, known)
    return names


def _positive(key, value):
    if not str(value).strip().isdecimal() or int(value) < 1:
        raise UserError(f"--{key.replace('_', '-')} must be at least 1, not {value}")
    return int(value)


def _mesh(text):
    """Returns the sizes of the data and the model axis that `text` names, or `None` for data parallelism."""
    if text == "data":
        return None
    sizes = text.split("x")
    if len(sizes) != 2 or not all(size.isdecimal() and int(size) for size in sizes):
        raise UserError(f"--mesh must be data or DATAxMODEL, such as 4x4, not {text!r}")
    return int(sizes[0]), int(sizes[1])


def _check_division(settings, mesh, num_devices):
    if mesh and math.prod(mesh) != num_devices:
        raise UserError(f"--mesh {settings['mesh']} has {math.prod(mesh)} chips, {settings['topology']} {num_devices}")
    replicas = mesh[0] if mesh else num_devices
    if settings["batch_size"] < 1 or settings["batch_size"] % replicas:
        raise UserError(f"--batch-size must be a multiple of {replicas}, not {settings['batch_size']}")


def _name(settings):
    """Returns the name of a record: topology, mesh, variant, blocks."""
    parts = [settings["topology"].replace(":", "_"), settings["mesh"], settings["variant"]]
    return "_".join([*parts, *([str(settings["num_layers"])] if settings["num_layers"] else [])])


def _command(settings, out):
    options = {key: value for key, value in settings.items() if key not in ("subject", "model_layers", "variant")}
    if settings["subject"] == "resnet50":
        del options["mesh"], options["num_layers"]
    remat = options.pop("remat", False)
    given = [item for key, value in options.items() for item in (f"--{key.replace('_', '-')}", str(value))]
    given += ["--variants", settings["variant"], "--out", out, *(["--remat"] if remat else [])]
    return shlex.join(["python", "-m", "benchmarks.tpu_compile", settings["subject"], *given])


def _libtpu():
    import importlib.metadata

    try:
        return {"libtpu": importlib.metadata.version("libtpu")}
    except importlib.metadata.PackageNotFoundError:  # one that TPU_LIBRARY_PATH names
        return {}


if __name__ == "__main__":
    app()
