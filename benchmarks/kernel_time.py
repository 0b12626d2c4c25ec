"""The command line: `python -m benchmarks.kernel_time --help`."""

import collections
import gzip
import json
import math
import pathlib
import tempfile
from typing import Annotated

import typer

from applications.backend import choose_backend
from applications.commands import BackendName, errors, origin, print_table
from applications.errors import UserError
from applications.files import writable_file, write_json

WARM_UP = 4
LARGEST = 12

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[str, typer.Option(help="JSON file.")],
    size: Annotated[str, typer.Option(help="Size of LaurelDecoderLM.")] = "157m",
    variants: Annotated[
        str, typer.Option(help="Comma-separated; ratios are to the first.")
    ] = "add,rw,pa,rw+lr,rw+lr+pa,add+1",
    num_layers: Annotated[int, typer.Option(help="Number of blocks.")] = 4,
    batch_size: Annotated[int, typer.Option(help="Sequences in a step.")] = 32,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 512,
    steps: Annotated[int, typer.Option(help="Steps that count, after four that do not.")] = 3,
    backend: BackendName = None,
):
    """Says how long the kernels of a decoder's training step run on a GPU, without the waits between them.

    `step_time` measures whole steps. Where a GPU waits for the host, they say little of what a join costs it. In
    mixed_bfloat16, under JAX or PyTorch, by their profilers.
    """
    with errors():
        backend = choose_backend(backend)
        from benchmarks import decoder, kernel_time_report

        settings = {"num_layers": num_layers, "batch_size": batch_size, "length": length, "steps": steps}
        names = decoder.checked(variants, size, settings)
        path = writable_file(out)
        profile = {"jax": profile_jax, "torch": profile_torch}.get(backend)
        if profile is None:
            raise UserError(f"no profile under {backend}: choose --backend jax or torch")
        _check_gpu(backend)
        import keras

        keras.config.set_dtype_policy("mixed_bfloat16")
        result = {
            "program": "kernel_time",
            **origin("benchmarks.kernel_time"),
            "settings": {"size": size, **settings},
            "variants": {},
        }
        for name in names:
            model = decoder.build_for_training(name, num_layers, size=size)
            kernels = profile(_step(model, batch_size, length), steps)
            result["variants"][name] = summary(model, kernels, steps)
            write_json(path, result)
            print(f"{name}: {1e3 * result['variants'][name]['seconds']:.2f} ms", flush=True)
        print_table("a training step", *kernel_time_report.table_cells(result))


def _check_gpu(backend):
    if backend == "jax":
        import jax

        found = jax.devices()[0].platform == "gpu"
    else:
        import torch

        found = torch.cuda.is_available()
    if not found:
        raise UserError("no GPU: `benchmarks.gpu_compile` says without one what its kernels would move")


def _step(model, batch_size, length):
    import numpy as np

    tokens = np.random.default_rng(0).integers(0, 1000, (batch_size, length), dtype="int32")
    return lambda: float(np.ravel(model.train_on_batch({"token_ids": tokens}, tokens))[0])


def summary(model, kernels, steps):
    """Returns what is recorded of a variant.

    Args:
        model: A built Keras model.
        kernels: List of pairs of a kernel's name and its seconds, of all steps.
        steps: How many.

    Returns:
        Dictionary of `weights`, and of one step `kernels`, their `seconds` and those of the `largest` by name.
    """
    by_name = collections.Counter()
    for name, seconds in kernels:
        by_name[name] += seconds / steps
    return {
        "weights": sum(math.prod(weight.shape) for weight in model.trainable_weights),
        "kernels": round(len(kernels) / steps),
        "seconds": sum(by_name.values()),
        "largest": {name: round(seconds, 7) for name, seconds in by_name.most_common(LARGEST)},
    }


def profile_jax(step, steps):
    """Returns the kernels of `steps` calls of `step`: pairs of a name and seconds."""
    import jax

    for _ in range(WARM_UP):
        step()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                step()
        (path,) = pathlib.Path(folder).glob("**/*.trace.json.gz")
        return kernels_of_trace(json.loads(gzip.decompress(path.read_bytes())))


def kernels_of_trace(trace):
    """Returns the kernels of the training step in a trace of JAX's profiler: pairs of a name and seconds."""
    events = trace["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    return [
        (event["name"], event["dur"] / 1e6)
        for event in events
        if event.get("ph") == "X"
        and "Compute" in names.get((event["pid"], event["tid"]), "")
        and event["args"].get("hlo_module") == "jit_train_step"
    ]


def profile_torch(step, steps):
    """Returns the kernels of `steps` calls of `step`: pairs of a name and seconds."""
    from torch.profiler import ProfilerActivity, profile

    for _ in range(WARM_UP):
        step()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            step()
    events = profiler.events() or []
    return [(e.name, e.time_range.elapsed_us() / 1e6) for e in events if e.device_type.name == "CUDA"]


if __name__ == "__main__":
    app()
