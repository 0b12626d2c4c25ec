"""The decoder and keras_hub's Llama, as subjects of the benchmarks."""

from typing import Any

import keras
import keras_hub
import numpy as np

from applications.errors import UserError
from applications.laurel_decoder_lm import configs
from applications.laurel_decoder_lm import model as recipe
from applications.variants import check_names, parsed
from keras_laurel import fold
from keras_laurel.applications import LaurelByteTokenizer, LaurelCausalLM, LaurelDecoderBackbone, LaurelDecoderLM
from keras_laurel.applications.laurel_decoder.mixers import MIXERS
from keras_laurel.applications.laurel_decoder.sizes import SIZES
from keras_laurel.joins import WORDS

LLAMA = "llama"
FOLDED = "folded"
KNOWN_VARIANTS = (
    *(LLAMA, *WORDS),
    *(f"{word}@{FOLDED}" for word in WORDS if word.startswith("rw")),
    *(f"add@mixers={mixer}" for mixer in MIXERS),
)
HEAD_DIM = 32
VOCABULARY_SIZE = 8192
RANK, NUM_ACTIVATIONS = 16, 3
SMALL_VOCABULARY_SIZE, TRAINING_RANK = 1024, 32
KNOWN_TRAINING_VARIANTS = (*WORDS, "add+1", "add+4")
# The joins whose gain the decoder's recipe reports, in the model that it trains.
COMPARED = (
    *("add", "add+4", "rw", "lr", "pa", "rw+lr", "rw+lr+pa", "pa@num_activations=12"),
    *(f"{word}@joins=sublayer" for word in ("rw", "lr", "pa", "rw+lr", "rw+lr+pa")),
    *("denseformer@num_activations=12", "hyperconnections", "layerscale", "rezero"),
    "rw+pa@previous=first@residual_weights=free",
)


def build(variant, num_layers, hidden_dim):
    """Returns the language model of a variant, with a greedy sampler and without a preprocessor.

    Args:
        variant: `"llama"` for `keras_hub.models.LlamaCausalLM`, else a word for `keras_laurel.residual`, or
            `"add@mixers=WORD"` for another mixer, or `"rw@folded"` and the like for what `keras_laurel.fold` leaves.
        num_layers: Number of blocks.
        hidden_dim: Width of the stream. Heads are 32 wide, two to a key and value head; the feed-forward layers are
            three times as wide as the stream.
    """
    keras.utils.set_random_seed(0)
    shape: dict[str, Any] = {
        "vocabulary_size": VOCABULARY_SIZE,
        "num_layers": num_layers,
        "num_query_heads": hidden_dim // HEAD_DIM,
        "num_key_value_heads": hidden_dim // HEAD_DIM // 2,
        "hidden_dim": hidden_dim,
        "intermediate_dim": 3 * hidden_dim,
    }
    if variant == LLAMA:
        backbone = keras_hub.models.LlamaBackbone(**shape, tie_word_embeddings=True)
        model = keras_hub.models.LlamaCausalLM(backbone, preprocessor=None)
    else:
        laurel: Any = LaurelDecoderBackbone  # whose defaults say less about its types than its docstring
        word, _, changes = parsed(variant)
        changed = dict(change.split("=") for change in changes if change != FOLDED)
        model = LaurelCausalLM(laurel(**shape, residual=word, rank=RANK, num_activations=NUM_ACTIVATIONS, **changed))
        if FOLDED in changes:
            model = fold(model)
    model.compile(sampler="greedy")
    return model


def build_for_training(
    variant, num_layers: Any = None, hidden_dim: Any = None, joins: Any = None, jit_compile="auto", size=None
):
    """Returns a compiled language model of a variant, by default with so few tokens that its cost is that of blocks.

    Args:
        variant: `"add+1"` and `"add+4"` for the paper's controls, more blocks; else a word for `keras_laurel.residual`.
        num_layers: Number of blocks; by default the size's.
        hidden_dim: Width of the stream. Heads are 64 wide, the feed-forward layers three times as wide as the stream.
        joins: `"sublayer"` for two joins a block, or `"block"` for one; by default the size's, or two.
        jit_compile: See `keras.Model.compile`.
        size: A key of `SIZES`, whose shape is taken in place of `hidden_dim`.
    """
    word, more, _ = parsed(variant)
    lm: Any = LaurelDecoderLM  # whose defaults say less about its types than its docstring
    laurel: Any = LaurelDecoderBackbone
    if size is not None:
        own = {} if joins is None else {"joins": joins}
        model = lm(size, residual=word, num_layers=(num_layers or SIZES[size]["num_layers"]) + more, **own)
    else:
        backbone = laurel(
            vocabulary_size=SMALL_VOCABULARY_SIZE,
            num_layers=num_layers + more,
            num_query_heads=hidden_dim // 64,
            hidden_dim=hidden_dim,
            intermediate_dim=3 * hidden_dim,
            residual=word,
            rank=TRAINING_RANK,
            num_activations=NUM_ACTIVATIONS,
            joins=joins or "sublayer",
        )
        model = LaurelCausalLM(backbone)
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-4),
        weighted_metrics=None,  # not the accuracy
        jit_compile=jit_compile,
    )
    return model


def checked(variants, size, counts):
    """Returns the list of names in `variants`, what a command line has of `build_for_training`.

    Args:
        variants: String of comma-separated variants.
        size: A key of `SIZES`.
        counts: Dictionary of options to numbers.

    Raises:
        UserError: If a name or the size is unknown, or a count below 1.
    """
    names = [name.strip() for name in variants.split(",")]
    check_names(names, KNOWN_TRAINING_VARIANTS)
    if size not in SIZES:
        raise UserError(f"unknown size {size!r}; known: {', '.join(SIZES)}")
    for option, value in counts.items():
        if value < 1:
            raise UserError(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    return names


def build_of_recipe(variant, config):
    """Returns the compiled model that the decoder's recipe trains for a variant of a `Config` of bytes."""
    config = configs.with_variant(config, variant)
    return recipe.trainer(recipe.build(config, LaurelByteTokenizer()), config)


def batch_of_recipe(config):
    """Returns random bytes, as inputs and targets of `build_of_recipe`'s models."""
    tokens = np.random.default_rng(0).integers(256, size=(config.batch_size, config.context + 1)).astype("int32")
    return tokens[:, :-1], tokens[:, 1:]


def batch(batch_size, length, size=None):
    """Returns random tokens, as inputs and targets of training; see `build_for_training`.

    Those for a `size` have no padding mask, as windows of a text have none.
    """
    count = SMALL_VOCABULARY_SIZE if size is None else SIZES[size]["vocabulary_size"]
    tokens = np.random.default_rng(0).integers(count, size=(batch_size, length + 1)).astype("int32")
    if size is not None:
        return {"token_ids": tokens[:, :-1]}, tokens[:, 1:]
    return {"token_ids": tokens[:, :-1], "padding_mask": np.ones((batch_size, length), "int32")}, tokens[:, 1:]


def prompts(batch_size, length, prompt_length):
    """Returns inputs of `generate`: random prompts, padded to `length`, and where they are."""
    token_ids = np.random.default_rng(0).integers(1, VOCABULARY_SIZE, size=(batch_size, length)).astype("int32")
    padding_mask = np.broadcast_to(np.arange(length) < prompt_length, token_ids.shape)
    return {"token_ids": np.where(padding_mask, token_ids, 0), "padding_mask": padding_mask.astype("int32")}
