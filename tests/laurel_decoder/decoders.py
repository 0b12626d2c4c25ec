"""Tiny decoders, which the tests of the decoder share."""

import numpy as np

from keras_laurel.applications import LaurelCausalLM, LaurelDecoderBackbone

SHAPE = {
    "vocabulary_size": 11,
    "num_layers": 2,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
    "intermediate_dim": 6,
    "rank": 2,
    "max_sequence_length": 6,
}
PAPER = {"positions": "learned", "norm": "layer", "feedforward": "mlp", "joins": "block", "num_key_value_heads": 2}

# Each of these must pass what holds for every decoder.
VARIANTS = {
    "add": {"residual": "add"},
    "rw": {"residual": "rw"},
    "rw+lr": {"residual": "rw+lr"},
    "rw+lr+pa": {"residual": "rw+lr+pa"},
    "pa_first": {"residual": "pa", "residual_arguments": {"previous": "first"}},
    "paper_rw+lr+pa": {**PAPER, "residual": "rw+lr+pa", "residual_arguments": {"norm": "rms"}},
    "mixed": {"residual": "rw+lr", "mixers": ("gated_linear_attention", "sliding_attention"), "window": 2},
    "striped": {
        "residual": "rw+lr",
        "mixers": ("mamba", "mamba", "attention", "moe"),  # three blocks, of which the last has a feed-forward layer
        "num_layers": 3,
        "intermediate_dim": 8,
    },
    "block_pa": {"residual": "pa", "joins": "block", "tie_embeddings": False, "head_dim": 6},
}


def backbone(variant="rw+lr+pa", **kwargs):
    return LaurelDecoderBackbone(**{**SHAPE, **VARIANTS[variant], **kwargs})


def causal_lm(variant="rw+lr+pa", preprocessor=None, **kwargs):
    return LaurelCausalLM(backbone(variant, **kwargs), preprocessor)


def random_tokens(length=6, batch_size=2, seed=0):
    return np.random.default_rng(seed).integers(11, size=(batch_size, length)).astype("int32")


def randomize(model, seed=1):
    """Gives every weight a value, small enough for the stream to stay of order 1."""
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape) * 0.4)
    return model
