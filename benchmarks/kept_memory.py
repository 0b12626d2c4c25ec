"""The command line: `python -m benchmarks.kept_memory --help`."""

import math
from typing import Annotated

import typer

from applications.backend import choose_backend
from applications.commands import errors, origin, print_table
from applications.files import writable_file, write_json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[str, typer.Option(help="JSON file.")],
    size: Annotated[str, typer.Option(help="Size of LaurelDecoderLM.")] = "157m",
    variants: Annotated[
        str, typer.Option(help="Comma-separated; ratios are to the first.")
    ] = "add,rw,lr,pa,rw+lr,rw+lr+pa,add+1",
    num_layers: Annotated[int, typer.Option(help="Number of blocks.")] = 4,
    batch_size: Annotated[int, typer.Option(help="Sequences in a step.")] = 1,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 512,
):
    """Counts the bytes that PyTorch keeps of a decoder's forward pass for its gradient, on any machine, exactly.

    Of the blocks alone, in mixed_bfloat16, without the output layer and weights; each tensor's memory once. It grows
    with the batch in proportion.
    """
    with errors():
        choose_backend("torch")
        from benchmarks import decoder, kept_memory_report

        settings = {"num_layers": num_layers, "batch_size": batch_size, "length": length}
        names = decoder.checked(variants, size, settings)
        path = writable_file(out)
        result = {
            "program": "kept_memory",
            **origin("benchmarks.kept_memory"),
            "precision": "mixed_bfloat16",
            "settings": {"size": size, **settings},
            "variants": {name: measure(name, size, num_layers, batch_size, length) for name in names},
        }
        write_json(path, result)
        print_table("kept for the gradient", *kept_memory_report.table_cells(result))


def measure(variant, size, num_layers, batch_size, length):
    """Returns the dictionary of `weights` and of the bytes `kept`."""
    import keras
    import torch

    from benchmarks import decoder

    keras.backend.clear_session()
    keras.config.set_dtype_policy("mixed_bfloat16")
    backbone = decoder.build_for_training(variant, num_layers, size=size).backbone
    tokens = torch.zeros((batch_size, length), dtype=torch.int32)
    return {
        "weights": sum(math.prod(weight.shape) for weight in backbone.trainable_weights),
        "kept": kept_bytes(lambda: backbone({"token_ids": tokens}, training=True), backbone.weights),
    }


def kept_bytes(function, weights):
    """Returns the bytes that autograd keeps of a call of `function`, without those of `weights`.

    Args:
        function: Function without arguments.
        weights: List of Keras variables.
    """
    import torch

    sizes = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor  # which keeps the memory from being given to another

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = function()
    for weight in weights:
        sizes.pop(weight.value.untyped_storage().data_ptr(), None)
    del outputs
    return sum(sizes.values())


if __name__ == "__main__":
    app()
