"""Trains the variants side by side: one batch for all of them, then the next."""

import dataclasses
import time

import keras
import numpy as np

from applications.tiny_lm.model import decoder_lm
from keras_laurel import exclude_from_weight_decay
from keras_laurel.joins import WORDS
from keras_laurel.monitoring import join_values, laurel_joins

VARIANTS = ("add", "add+1", "rw", "lr", "pa", "rw+lr", "rw+lr+pa")
KNOWN_VARIANTS = (*VARIANTS, *(word for word in WORDS if word not in VARIANTS))


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings that all variants share."""

    steps: int = 600
    batch_size: int = 16
    context: int = 32
    num_blocks: int = 4
    dim: int = 128
    num_heads: int = 4
    rank: int = 16
    num_activations: int = 3
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup_steps: int = 50
    evaluate_every: int = 100


def build(variant, config, vocabulary_size, seed):
    """Returns the compiled model of a variant; `"add+1"` is the plain residual with one more block."""
    keras.utils.set_random_seed(seed)
    model = decoder_lm(
        vocabulary_size,
        config.context,
        "add" if variant == "add+1" else variant,
        num_blocks=config.num_blocks + (variant == "add+1"),
        dim=config.dim,
        num_heads=config.num_heads,
        rank=config.rank,
        num_activations=config.num_activations,
        seed=seed,
    )
    warmup = min(config.warmup_steps, config.steps - 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else config.learning_rate,
        config.steps - warmup,
        alpha=0.1,
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, clipnorm=1.0)
    exclude_from_weight_decay(optimizer, model, var_names=["bias", "scale", "embeddings"])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def train_side_by_side(models, text, config, seed, record, on_step=lambda step: None):
    """Trains every model on the same batches, each batch by all models in random order, and fills `record`.

    Interleaved so, the machine's moods meet all variants alike, and a ratio of step times can be trusted.

    Args:
        models: Dictionary of variant names to compiled models.
        text: A `Text`.
        config: A `Config`.
        seed: Integer seed of the batches.
        record: Dictionary of variant names to dictionaries, each with lists `train_loss` and `step_seconds` (one entry
            a step), `held_out` (pairs of step and loss, one each `evaluate_every` steps and at the end) and `joins`
            (what each join had learned at the last of those). Filled as training goes, so an interrupt loses nothing.
        on_step: Called with the step after each one.

    Raises:
        FloatingPointError: If a loss is not finite.
    """
    held_out = text.held_out_windows(config.context)
    order = np.random.default_rng(seed)
    for step in range(1, config.steps + 1):
        inputs, targets = text.batch(seed, step, config.batch_size, config.context)
        for variant in order.permutation(list(models)):
            model = models[variant]
            model.reset_metrics()
            start = time.perf_counter()
            loss = float(model.train_on_batch(inputs, targets))
            record[variant]["step_seconds"].append(round(time.perf_counter() - start, 6))
            record[variant]["train_loss"].append(round(loss, 6))
            if not np.isfinite(loss):
                raise FloatingPointError(f"the loss of {variant} is {loss} at step {step}")
        if step % config.evaluate_every == 0 or step == config.steps:
            for variant, model in models.items():
                loss = model.evaluate(*held_out, batch_size=config.batch_size, verbose=0)
                record[variant]["held_out"].append((step, float(loss)))
                record[variant]["joins"] = [join_values(join) for join in laurel_joins(model).values()]
        on_step(step)


def generate(model, text, prompt, length, context, temperature=0.7, seed=0):
    """Returns `prompt` continued by `length` characters drawn from `model`."""
    rng = np.random.default_rng(seed)
    tokens = [text.characters.index(character) for character in prompt]
    for _ in range(length):
        window = np.zeros((1, context), "int32")  # one shape for all lengths, so that it compiles once
        recent = tokens[-context:]
        window[0, : len(recent)] = recent
        logits = keras.ops.convert_to_numpy(model.predict_on_batch(window))[0, len(recent) - 1] / temperature
        probabilities = np.exp(logits - logits.max(), dtype="float64")
        tokens.append(int(rng.choice(len(probabilities), p=probabilities / probabilities.sum())))
    return text.decode(tokens)
