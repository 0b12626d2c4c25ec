"""The command line: `python -m benchmarks.gpu_compile --help`."""

import contextlib
import json
import math
import os
from typing import Annotated
from unittest import mock

import typer

from applications.backend import choose_backend
from applications.commands import errors, origin, print_table
from applications.errors import UserError
from applications.files import writable_file, write_json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[str, typer.Option(help="JSON file; variants that are there are not compiled again.")],
    size: Annotated[str, typer.Option(help="Size of LaurelDecoderLM.")] = "157m",
    variants: Annotated[
        str, typer.Option(help="Comma-separated; ratios are to the first.")
    ] = "add,rw,lr,pa,rw+lr,rw+lr+pa,add+1",
    joins: Annotated[
        str | None, typer.Option(help="block, or sublayer for two a block.", show_default="the size's")
    ] = None,
    num_layers: Annotated[int, typer.Option(help="Number of blocks.")] = 4,
    batch_size: Annotated[int, typer.Option(help="Sequences in a step.")] = 32,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 512,
    gpu: Annotated[str, typer.Option(help="h100 or h200.")] = "h200",
    padding_mask: Annotated[
        bool, typer.Option("--padding-mask", help="Sequences come with a mask of what is padding.")
    ] = False,
):
    """Compiles a decoder's training step for a GPU by XLA, without a GPU, and says what it takes.

    Of each join: kernels, the bytes that they read and write, and the memory that a step sets aside. In
    mixed_bfloat16, with cuDNN's attention. Nothing runs: there are no times, and kernels that XLA would choose by
    timing them are those it takes unseen. A compile takes about a minute; each is kept as it ends.
    """
    # As `jax.devices` must find CPUs, and the plugin would look for a driver.
    os.environ |= {"JAX_PLATFORMS": "cpu,cuda", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
    with errors():
        choose_backend("jax")
        from benchmarks import abstract_step, decoder, gpu_compile_report

        counts = {"num_layers": num_layers, "batch_size": batch_size, "length": length}
        names = decoder.checked(variants, size, counts)
        if gpu not in abstract_step.GPUS:
            raise UserError(f"unknown gpu {gpu!r}; known: {', '.join(abstract_step.GPUS)}")
        if joins not in (None, "block", "sublayer"):
            raise UserError(f"unknown joins {joins!r}; known: block, sublayer")
        settings = {"size": size, "gpu": gpu, **counts, "padding_mask": padding_mask}
        if joins is not None:
            settings["joins"] = joins
        path = writable_file(out)
        devices = abstract_step.gpu(gpu)
        result = _begun(path, settings, devices[0].device_kind)
        for name in names:
            if name not in result["variants"]:
                print(f"{name}: compiling", flush=True)
                result["variants"][name] = measure(name, settings, devices)
                write_json(path, result)
        print_table("a training step", *gpu_compile_report.table_cells(result))


def _begun(path, settings, device):
    """Returns the record at `path`, or a new one without variants."""
    if path.exists():
        result = json.loads(path.read_text())
        if result["settings"] != settings:
            raise UserError(f"{path} is a record with other settings: choose another --out, or remove it")
        return result
    import importlib.metadata

    begin = origin("benchmarks.gpu_compile")
    plugin = "jax-cuda13-plugin"
    return {
        "program": "gpu_compile",
        **begin,
        "device": f"{device}, compiled on {begin['device']}",
        "precision": "mixed_bfloat16",
        "versions": {**begin["versions"], plugin: importlib.metadata.version(plugin)},
        "settings": settings,
        "variants": {},
    }


def measure(variant, settings, devices):
    """Compiles the training step of a variant.

    Args:
        variant: See `benchmarks.decoder.build_for_training`.
        settings: Dictionary of `size`, `num_layers`, `batch_size`, `length`, `padding_mask`, and perhaps `joins`.
        devices: List of the device to compile for.

    Returns:
        Dictionary of `weights`, `kernels`, and in bytes `moved` and `temporaries`.
    """
    import jax
    import keras

    from benchmarks import abstract_step, decoder
    from benchmarks.kernels import kernels

    keras.backend.clear_session()
    keras.config.set_dtype_policy("mixed_bfloat16")  # which the line above forgets
    tokens = jax.ShapeDtypeStruct((settings["batch_size"], settings["length"]), "int32")
    inputs = {"token_ids": tokens, **({"padding_mask": tokens} if settings["padding_mask"] else {})}
    with abstract_step.pretend(devices), _with_flash_attention():
        spread = abstract_step.distribution(devices)
        with spread.scope():
            model = decoder.build_for_training(
                variant, settings["num_layers"], None, settings.get("joins"), size=settings["size"]
            )
            lowered = abstract_step.train(model, (inputs, tokens), spread)
        compiled = lowered.compile()
    moved, memory = kernels(compiled.as_text()), compiled.memory_analysis()
    assert memory is not None  # which other compilers may not know
    return {
        "weights": sum(math.prod(weight.shape) for weight in model.trainable_weights),
        "kernels": len(moved),
        "moved": sum(moved),
        "temporaries": memory.temp_size_in_bytes,
    }


@contextlib.contextmanager
def _with_flash_attention():
    """Answers what JAX asks the GPU that is there before it takes cuDNN's attention."""
    from jax._src.cudnn import fused_attention_stablehlo

    answers = {
        "check_cudnn_version": lambda: 91900,
        "check_compute_capability": lambda capability: True,
        "is_cuda_compute_capability_equal": lambda capability: False,
    }
    with mock.patch.multiple(fused_attention_stablehlo, **answers):
        yield


if __name__ == "__main__":
    app()
