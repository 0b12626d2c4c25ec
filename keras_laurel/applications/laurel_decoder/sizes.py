"""The decoder by size or preset: `LaurelDecoderLM`."""

import os

import keras
from keras.src.backend.common import global_state  # not exported

from keras_laurel.applications.laurel_decoder.backbone import LaurelDecoderBackbone
from keras_laurel.applications.laurel_decoder.causal_lm import LaurelCausalLM

# Arguments of `LaurelDecoderBackbone`. All but the first two have a vocabulary of 32,000 in mind.
SIZES = {
    # 31 thousand weights: seconds on a CPU.
    "tiny": {
        "vocabulary_size": 256,
        "num_layers": 2,
        "num_query_heads": 4,
        "num_key_value_heads": 2,
        "hidden_dim": 32,
        "intermediate_dim": 88,
        "max_sequence_length": 128,
    },
    # 10 million.
    "small": {
        "vocabulary_size": 8192,
        "num_layers": 10,
        "num_query_heads": 8,
        "num_key_value_heads": 4,
        "hidden_dim": 256,
        "intermediate_dim": 768,
        "max_sequence_length": 512,
    },
    # The small LM of the paper's table 5: one join a block, and a norm's gain where there is a map or history.
    "157m": {
        "vocabulary_size": 32_096,
        "num_layers": 24,
        "num_query_heads": 12,
        "hidden_dim": 768,
        "intermediate_dim": 2048,
        "max_sequence_length": 512,
        "positions": "learned",
        "norm": "layer",
        "feedforward": "mlp",
        "joins": "block",
        "rank": 32,
        "num_activations": 3,
        "residual_arguments": {"norm": "rms"},
    },
    # The paper's 1B and 4B models are not published: these have their sizes and ranks. RW+LR.
    "1b": {
        "vocabulary_size": 32_000,
        "num_layers": 20,
        "num_query_heads": 32,
        "num_key_value_heads": 8,
        "hidden_dim": 2048,
        "intermediate_dim": 6144,
        "max_sequence_length": 2048,
        "rank": 4,
    },
    "3b": {
        "vocabulary_size": 32_000,
        "num_layers": 28,
        "num_query_heads": 24,
        "num_key_value_heads": 8,
        "hidden_dim": 3072,
        "intermediate_dim": 8192,
        "max_sequence_length": 2048,
        "rank": 32,
    },
    "4b": {
        "vocabulary_size": 32_000,
        "num_layers": 36,
        "num_query_heads": 24,
        "num_key_value_heads": 8,
        "hidden_dim": 3072,
        "intermediate_dim": 9216,
        "max_sequence_length": 2048,
        "rank": 64,
    },
}


def LaurelDecoderLM(size="small", *, preprocessor=None, load_weights=True, **kwargs):  # noqa: N802, as keras.applications
    """Builds a `LaurelCausalLM` of a named size, or loads a preset.

    | size | weights, `"add"` | blocks | width | what it is |
    |---|---|---|---|---|
    | `"tiny"` | 31 thousand | 2 | 32 | seconds on a CPU |
    | `"small"` | 10 million | 10 | 256 | |
    | `"157m"` | 157 million | 24 | 768 | the paper's small LM (table 5), r = 32, k = 3, one join a block |
    | `"1b"` | 1.0 billion | 20 | 2048 | the paper's 1B model in size, r = 4 |
    | `"3b"` | 2.9 billion | 28 | 3072 | r = 32 |
    | `"4b"` | 4.1 billion | 36 | 3072 | the paper's 4B model in size, r = 64 |

    Args:
        size: One of the above; or a preset: a folder that `save_to_preset` wrote, or a handle of keras_hub such as
            `"hf://user/model"`.
        preprocessor: A `LaurelCausalLMPreprocessor`, for strings, or `None`. A preset brings its own. Without
            `vocabulary_size` the model has as many tokens as its tokenizer.
        load_weights: Whether to load the weights of a preset.
        **kwargs: Arguments of `LaurelDecoderBackbone` that differ from those of the size, such as `residual`, `rank`,
            `joins`, `num_layers`, `dropout`, `remat` and `dtype`. Of a preset, `dtype` alone may differ.

    Returns:
        A `LaurelCausalLM`.

    Raises:
        ValueError: If there is no such size or folder, the preprocessor does not fit the model, or an argument is not
            the backbone's.

    Example:
    >>> from keras_laurel.applications import LaurelDecoderLM
    >>> model = LaurelDecoderLM("tiny", residual="rw+lr", rank=4)
    >>> tuple(model(np.array([[1, 2, 3]])).shape)
    (1, 3, 256)
    >>> LaurelDecoderLM("huge")
    Traceback (most recent call last):
    ValueError: Expected `size` to be one of 'tiny', 'small', ..., or a preset's folder or handle. Received: size='huge'

    Reference:
        [Menghani et al., 2025](https://arxiv.org/abs/2411.07501), section 3.2
    """
    size = os.fspath(size)
    if size not in SIZES and (os.path.isdir(size) or "://" in size):
        if set(kwargs) - {"dtype"}:
            raise ValueError(f"Expected no argument but `dtype` with a preset. Received: {', '.join(sorted(kwargs))}")
        own = {} if preprocessor is None else {"preprocessor": preprocessor}
        return LaurelCausalLM.from_preset(size, load_weights=load_weights, **own, **kwargs)
    if preprocessor is not None:
        kwargs.setdefault("vocabulary_size", preprocessor.tokenizer.vocabulary_size())
    return LaurelCausalLM(LaurelDecoderBackbone(**_arguments(size, kwargs)), preprocessor)


def count_weights(size, **kwargs):
    """Returns how many weights `LaurelDecoderLM(size, **kwargs)` has, without making them.

    Args:
        size: A key of `SIZES`.
        **kwargs: See `LaurelDecoderLM`.

    Example:
    >>> from keras_laurel.applications.laurel_decoder import count_weights
    >>> f"{count_weights('4b', residual='add'):,}"
    '4,062,145,536'
    """
    # Keras would make them at the end of the next stateless scope.
    waiting = list(global_state.get_global_attribute("uninitialized_variables", []))
    try:
        with keras.StatelessScope(initialize_variables=False):
            return LaurelDecoderBackbone(**_arguments(size, kwargs)).count_params()
    finally:
        global_state.set_global_attribute("uninitialized_variables", waiting)


def _arguments(size, given):
    """Returns the arguments of the backbone of that size, with what is given."""
    if size not in SIZES:
        known = ", ".join(map(repr, SIZES))
        raise ValueError(
            f"Expected `size` to be one of {known}, or a preset's folder or handle. Received: size={size!r}"
        )
    arguments = {**SIZES[size], **given}
    if callable(given.get("residual")):  # which may not take what words take
        own = ("rank", "num_activations", "residual_arguments")
        return {key: value for key, value in arguments.items() if key not in own or key in given}
    arguments["residual_arguments"] = {
        **SIZES[size].get("residual_arguments", {}),
        **given.get("residual_arguments", {}),
    }
    return arguments
