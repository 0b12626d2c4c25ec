"""The language model: `fit`, `generate`, `score`, presets."""

from typing import Any

import keras
import keras_hub
from keras import ops

from keras_laurel.applications.laurel_decoder.backbone import LaurelDecoderBackbone, WithoutPaddingMask
from keras_laurel.applications.laurel_decoder.crossentropy import TokenCrossentropy
from keras_laurel.applications.laurel_decoder.preprocessor import LaurelCausalLMPreprocessor
from keras_laurel.applications.laurel_decoder.torch_loader import FitsTorchLoaders
from keras_laurel.mixers import CausalAttention


@keras.saving.register_keras_serializable(package="keras_laurel")
class LaurelCausalLM(WithoutPaddingMask, FitsTorchLoaders, keras_hub.models.CausalLM):
    """A `keras_hub.models.CausalLM` whose backbone has LAuReL joins.

    `fit`, `generate`, `compile(sampler=...)`, `save_to_preset`, `from_preset`, `enable_lora` and `quantize` are those
    of keras_hub. With a preprocessor, `fit` and `generate` take strings; without one they take token ids: `fit` an
    array, or `{"token_ids": ...}`, and the tokens that follow. Data are arrays, tf.data, Grain or a PyTorch loader.

    Every mixer decodes with a cache: attention and the Hyenas with one that grows with the length (Hyena's filter reads
    all positions), the others with a state of one size.

    Args:
        backbone: A `LaurelDecoderBackbone`.
        preprocessor: A `LaurelCausalLMPreprocessor` or `None`.
        **kwargs: Arguments of `keras_hub.models.CausalLM`, such as `name`.

    Raises:
        ValueError: If the tokenizer has more tokens than the backbone, or the preprocessor makes longer sequences than
            there are learned positions.

    Call arguments:
        inputs: See `LaurelDecoderBackbone`.

    Returns:
        Float tensor `(batch, length, vocabulary_size)`, the logits of the next token.

    Example:
    >>> from keras_laurel.applications import LaurelCausalLM, LaurelDecoderBackbone
    >>> model = LaurelCausalLM(LaurelDecoderBackbone(10, 1, 2, 8, 16, residual="rw"))
    >>> tuple(model(np.array([[1, 2, 3]])).shape)
    (1, 3, 10)
    """

    backbone_cls = LaurelDecoderBackbone
    preprocessor_cls = LaurelCausalLMPreprocessor

    def __init__(self, backbone, preprocessor=None, **kwargs):
        if isinstance(preprocessor, keras_hub.models.Preprocessor):
            _check(preprocessor, backbone)

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor

        # === Functional Model ===
        inputs = backbone.input
        outputs = backbone.token_embedding(backbone(inputs), reverse=True)
        super().__init__(inputs, outputs, **kwargs)  # pyright: ignore[reportCallIssue]

    def compile(self, optimizer: Any = "auto", loss: Any = "auto", **kwargs):
        """See `keras_hub.models.CausalLM.compile`; the loss by default is `TokenCrossentropy`."""
        super().compile(optimizer, TokenCrossentropy() if isinstance(loss, str) and loss == "auto" else loss, **kwargs)

    def quantize(self, mode=None, config=None, filters=None, **kwargs):
        """Quantizes the model: see `keras.Model.quantize`."""
        preprocessor: Any = self.preprocessor
        if filters is None and isinstance(preprocessor, keras.Layer):
            # Keras would take a tokenizer that was never called for a layer whose weights are yet to come.
            preprocessing = {id(layer) for layer in preprocessor._flatten_layers()}
            filters = lambda layer: id(layer) not in preprocessing  # noqa: E731
        super().quantize(mode, config=config, filters=filters, **kwargs)

    def call_with_cache(self, token_ids, cache, cache_update_index):
        """Continues sequences by what their earlier tokens left in `cache`.

        Args:
            token_ids: Integer tensor `(batch, length)`, the next tokens of each sequence.
            cache: List of the caches of the blocks: see the mixers.
            cache_update_index: Integer, or integer scalar tensor, the position of the first of `token_ids`.

        Returns:
            Logits `(batch, length, vocabulary_size)`, hidden states `(batch, length, hidden_dim)` and the new cache.
        """
        # One mask for all blocks: a position sees what is not after it.
        positions = ops.expand_dims(cache_update_index + ops.arange(ops.shape(token_ids)[1]), 1)
        mask = ops.expand_dims(ops.arange(self._capacity(cache)) <= positions, (0, 1))
        hidden_states, cache = self._run_blocks(token_ids, cache, cache_update_index, mask)
        return self.backbone.token_embedding(hidden_states, reverse=True), hidden_states, cache

    def _capacity(self, cache):
        """Returns the most positions that a cache of attention has room for, or 1 if there is none of attention."""
        blocks = zip(self.backbone.transformer_layers, cache)
        return next((ops.shape(kept[0])[1] for block, kept in blocks if isinstance(block.mixer, CausalAttention)), 1)

    def _run_blocks(self, token_ids, cache, cache_index, attention_mask=None, num_kept=None):
        backbone = self.backbone
        states = backbone.embed(token_ids, start_index=cache_index)
        new_cache = []
        for block, kept in zip(backbone.transformer_layers, cache):
            states, kept = block(
                states, attention_mask=attention_mask, cache=kept, cache_index=cache_index, num_kept=num_kept
            )
            new_cache.append(kept)
        return backbone.layer_norm(states[0]), new_cache

    def _build_cache(self, token_ids, num_kept=None):
        """Returns the hidden states of the prompts, and the cache that their first `num_kept` tokens leave."""
        blocks = self.backbone.transformer_layers
        cache = [block.mixer.empty_cache(*ops.shape(token_ids)) for block in blocks]
        return self._run_blocks(token_ids, cache, 0, num_kept=num_kept)

    def generate_step(self, inputs, stop_token_ids=None):
        """Generates a batch; `keras_hub` compiles it. See `keras_hub.models.CausalLM.generate`.

        Args:
            inputs: Dictionary of `"token_ids"` `(batch, length)`, prompts padded to the length to generate, and
                `"padding_mask"`, true where a token is of the prompt.
            stop_token_ids: Tuple of the tokens that end a sequence, or `None`.

        Returns:
            Dictionary of the same keys: prompts and what was generated, up to the first stop token.
        """
        token_ids, padding_mask = inputs["token_ids"], ops.cast(inputs["padding_mask"], "bool")
        first = ops.min(ops.sum(ops.cast(padding_mask, "int32"), axis=-1))
        hidden_states, cache = self._build_cache(token_ids, num_kept=first - 1)

        def next_logits(tokens, cache, index):
            last = ops.slice(tokens, (0, index - 1), (ops.shape(tokens)[0], 1))
            logits, hidden_states, cache = self.call_with_cache(last, cache, index - 1)
            return ops.squeeze(logits, 1), ops.squeeze(hidden_states, 1), cache

        token_ids = self.sampler(
            next=next_logits,
            prompt=token_ids,
            cache=cache,
            index=first,
            mask=padding_mask,
            stop_token_ids=stop_token_ids,
            hidden_states=hidden_states,
            model=self,
        )
        if stop_token_ids is None:
            return {"token_ids": token_ids, "padding_mask": ops.ones_like(token_ids, dtype="bool")}
        stops = ops.zeros_like(padding_mask)
        for token in stop_token_ids:
            stops = ops.logical_or(stops, ops.equal(token_ids, token))
        stops = ops.cast(ops.logical_and(stops, ops.logical_not(padding_mask)), "int32")
        before = ops.cumsum(stops, axis=-1) - stops
        return {"token_ids": token_ids, "padding_mask": ops.equal(before, 0)}

    def score(self, token_ids, padding_mask=None, scoring_mode="logits", layer_intercept_fn=None, target_ids=None):
        """Scores token ids, as `keras_hub`'s models do.

        Args:
            token_ids: Integer tensor `(batch, length)`.
            padding_mask: Tensor of the same shape, zero where a token is padding, or `None`.
            scoring_mode: `"logits"`, or `"loss"` for the cross-entropy of `target_ids`.
            layer_intercept_fn: Function of the stream and an index that returns the stream to go on with: -1 is the
                embedding, then come the blocks.
            target_ids: Integer tensor `(batch, length)`, needed for `"loss"`.

        Returns:
            Tensor `(batch, length, vocabulary_size)`, or `(batch, length)` for `"loss"`.

        Raises:
            ValueError: If `scoring_mode` is unknown, or `"loss"` without `target_ids`.
        """
        if scoring_mode not in ("logits", "loss"):
            raise ValueError(f"Expected `scoring_mode` to be 'logits' or 'loss'. Received: {scoring_mode!r}")
        if scoring_mode == "loss" and target_ids is None:
            raise ValueError("Expected `target_ids` with scoring_mode='loss'. Received: target_ids=None")
        states = self.backbone.embed(token_ids)

        def intercept(states, index):
            if layer_intercept_fn is None:
                return states
            x = layer_intercept_fn(states[0], index)
            return [x if state is states[0] else state for state in states]

        states = intercept(states, -1)
        for index, block in enumerate(self.backbone.transformer_layers):
            states = intercept(block(states, padding_mask), index)
        logits = self.backbone.token_embedding(self.backbone.layer_norm(states[0]), reverse=True)
        if scoring_mode == "logits":
            return logits
        return TokenCrossentropy(reduction=None)(target_ids, logits)

    def get_quantization_layer_structure(self, mode):
        """Returns the embedding and the blocks in the order in which GPTQ and AWQ quantize them."""
        if mode not in ("gptq", "awq"):
            return None
        return {
            "pre_block_layers": [_StackedEmbedding(self.backbone)],
            "sequential_blocks": [_StackedBlock(block) for block in self.backbone.transformer_layers],
        }


def _check(preprocessor, backbone):
    """Refuses a preprocessor whose tokens or lengths `backbone` does not have."""
    try:
        num_tokens = preprocessor.tokenizer.vocabulary_size()
    except ValueError:  # of a preset, whose vocabulary comes later
        num_tokens = 0
    if num_tokens > backbone.vocabulary_size:
        raise ValueError(
            f"Expected a model with a `vocabulary_size` of at least that of the tokenizer, {num_tokens}. "
            f"Received: vocabulary_size={backbone.vocabulary_size}"
        )
    if backbone.positions == "learned" and preprocessor.sequence_length > backbone.max_sequence_length:
        raise ValueError(
            f"Expected a preprocessor with a `sequence_length` of at most {backbone.max_sequence_length}, the learned "
            f"positions (`max_sequence_length`). Received: sequence_length={preprocessor.sequence_length}"
        )


# Keras hands one tensor from block to block: here, the stacked states `(num_states, batch, length, dim)`.


class _StackedEmbedding(keras.layers.Layer):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def call(self, token_ids):
        return ops.stack(self.backbone.embed(token_ids))


class _StackedBlock(keras.layers.Layer):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def call(self, states):
        return [ops.stack(self.block(ops.unstack(states)))]
