"""One run: a decoder of one size, trained on text until a budget of operations is spent, and its held-out loss."""

import dataclasses
import math
import time
from typing import Any

import keras
import numpy as np

from applications.joins import join_arguments
from applications.provenance import provenance
from applications.tiny_lm.data import load_text
from keras_laurel import exclude_from_weight_decay
from keras_laurel.applications import LaurelCausalLM, LaurelDecoderBackbone
from keras_laurel.monitoring import laurel_joins

HEAD_DIM = 16
REFERENCE_WIDTH = 64
WARMUP = 0.1


@dataclasses.dataclass(frozen=True)
class Run:
    """All that decides a run. Runs that differ in the join alone see the same text as far as both go.

    Attributes:
        mixers: Words of `LaurelDecoderBackbone`'s `mixers`, joined by "-then-".
        join: See `applications.joins.join_arguments`; two in each block.
        width: Width of the stream, a multiple of 16; heads are 16 wide, feed-forward layers three times the width.
        blocks: Number of blocks.
        budget: Operations of the whole training: three forward passes a step, see `flops`.
        seed: Of the first weights and the batches.
        text: Path of a text file, or `None` for tinyshakespeare.
        batch_size: Sequences of a step.
        length: Characters of a sequence.
        learning_rate: The highest at width 64; at others it goes with the root of 64 / width.
        rank: Of the low-rank maps, unless `join` names another.
        num_activations: States that PA weighs, unless `join` names another.
    """

    mixers: str
    join: str
    width: int
    blocks: int
    budget: float
    seed: int
    text: str | None = None
    batch_size: int = 8
    length: int = 128
    learning_rate: float = 4e-3
    rank: int = 8
    num_activations: int = 3

    @property
    def name(self):
        """The name of its file, without the ending."""
        return f"{self.mixers}.{self.join}.{self.budget:g}.{self.width}x{self.blocks}.seed{self.seed}"

    @property
    def settings(self):
        """What a record says of it."""
        return dataclasses.asdict(self)

    @property
    def cost(self):
        """About proportional to its time."""
        return self.budget


def build(run, vocabulary_size):
    """Returns the model of a run, whose weights are drawn from its seed."""
    kind, arguments = join_arguments(
        run.join, rank=run.rank, num_activations=run.num_activations, down_initializer="glorot_uniform"
    )
    keras.utils.set_random_seed(run.seed)
    backbone = LaurelDecoderBackbone(
        vocabulary_size=vocabulary_size,
        num_layers=run.blocks,
        num_query_heads=run.width // HEAD_DIM,
        hidden_dim=run.width,
        intermediate_dim=3 * run.width,
        mixers=run.mixers.split("-then-"),
        max_sequence_length=run.length,
        residual=kind,
        rank=arguments.pop("rank"),
        num_activations=arguments.pop("num_activations"),
        residual_arguments=arguments,
    )
    return LaurelCausalLM(backbone)


def flops(model, length):
    """Returns the operations of the forward pass of a sequence; a multiplication and an addition count as two.

    Those of mixers, feed-forward layers and hyper-connections by their own formulas, of LAuReL's low-rank maps and of
    the output.
    Norms, the embedding, and what joins add and scale are left out.
    """
    backbone = model.backbone
    blocks = backbone.transformer_layers
    layers = [layer for block in blocks for layer in (block.mixer, block.feedforward, *block.joins)]
    total = sum(layer.flops(length) for layer in layers if hasattr(layer, "flops"))
    kernels = [backbone.token_embedding.embeddings]
    for join in laurel_joins(model).values():
        kernels += [weight for weight in join.trainable_weights if len(weight.shape) == 2]
    return total + sum(2 * length * math.prod(kernel.shape) for kernel in kernels)


def num_steps(run, flops_of_a_sequence):
    """Returns how many steps of training the run's budget allows: three forward passes each; one at least."""
    return max(1, round(run.budget / (3 * flops_of_a_sequence * run.batch_size)))


class Batches(keras.utils.PyDataset):
    """The batches of a run's text, one for each step."""

    def __init__(self, text, run, steps):
        super().__init__()
        self.text, self.run, self.steps = text, run, steps

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        inputs, targets = self.text.batch(self.run.seed, index, self.run.batch_size, self.run.length)
        return {"token_ids": inputs, "padding_mask": np.ones_like(inputs)}, targets


def train(run):
    """Trains the model of a run and scores it on held-out text.

    Returns:
        Dictionary of `weights`; `state`, the floats that the mixers keep of a sequence; `flops` of the forward pass of
        a sequence; `steps`; `loss`, nats a character of held-out text, or `None` if it is not finite; `seconds`.
    """
    start = time.perf_counter()
    text = load_text(run.text, run.length)
    model = build(run, len(text.characters))
    of_a_sequence = flops(model, run.length)
    steps = num_steps(run, of_a_sequence)
    highest = run.learning_rate * math.sqrt(REFERENCE_WIDTH / run.width)
    warmup = max(1, round(WARMUP * steps))
    rate = keras.optimizers.schedules.CosineDecay(
        highest / warmup, max(1, steps - warmup), alpha=0.1, warmup_target=highest, warmup_steps=warmup
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.1, beta_2=0.95, clipnorm=1.0)
    exclude_from_weight_decay(optimizer, model)
    trained: Any = keras.Model(model.input, model.output)  # keras_hub's own `fit` would prepare strings
    trained.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    trained.fit(Batches(text, run, steps), shuffle=False, verbose=0)
    inputs, targets = text.held_out_windows(run.length)
    batch = {"token_ids": inputs, "padding_mask": np.ones_like(inputs)}
    found = trained.evaluate(batch, targets, batch_size=32, verbose=0)
    return {
        "weights": model.count_params(),
        "state": sum(block.mixer.state_size(run.length) for block in model.backbone.transformer_layers),
        "flops": of_a_sequence,
        "steps": steps,
        "loss": found if math.isfinite(found) else None,
        "seconds": time.perf_counter() - start,
    }


def record_of(run, command):
    """Makes a run and returns its record."""
    keras.backend.clear_session()
    return {"program": "isoflop", "command": command, **provenance(), "settings": run.settings, **train(run)}
