"""The decoder: embedding, blocks, norm."""

import math
from typing import Any

import keras
import keras_hub

from keras_laurel.applications.laurel_decoder.block import NORMS, LaurelDecoderBlock
from keras_laurel.applications.laurel_decoder.layout import layout_map
from keras_laurel.applications.laurel_decoder.mixers import FEEDFORWARDS, blocks_of, make_feedforward, make_mixer
from keras_laurel.applications.laurel_decoder.positions import LearnedPositions
from keras_laurel.applications.laurel_decoder.scaled_kernels import ScaledKernels
from keras_laurel.history import ProjectionsAhead, first_states
from keras_laurel.initializers import ColumnOrthogonal
from keras_laurel.joins import residual as make_join
from keras_laurel.layers.low_rank import positive_integer

POSITIONS = ("rotary", "learned")
JOINS = ("sublayer", "block")


def _one_of(name, value, known):
    if value not in known:
        raise ValueError(f"Expected `{name}` to be one of {known}. Received: {name}={value!r}")
    return value


class WithoutPaddingMask:
    """Lets a functional model of `token_ids` and `padding_mask` be called without the mask, or on an array of ids."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # keras_hub 0.32 hides these from PyTorch, which then finds no parameters until the model is compiled.
        if "_torch_params" in vars(self):
            self._torch_params = self._torch_params

    def __call__(self, inputs, *args, **kwargs):
        model: Any = super()
        return model.__call__(self._whole(inputs), *args, **kwargs)

    # `stateless_call`, and so `fit` under JAX, goes around `__call__`. By its signature Keras knows to say `training`.
    def call(self, inputs, training=None, mask=None, **kwargs):
        model: Any = super()
        return model.call(self._whole(inputs), training=training, mask=mask, **kwargs)

    # Of a symbolic call, for which Keras wants a mask in any case.
    def compute_output_spec(self, inputs, *args, **kwargs):
        whole = self._whole(inputs)
        if whole["padding_mask"] is None:
            whole["padding_mask"] = keras.KerasTensor(whole["token_ids"].shape, "int32")
        model: Any = super()
        return model.compute_output_spec(whole, *args, **kwargs)

    @staticmethod
    def _whole(inputs):
        return {"padding_mask": None, **(inputs if isinstance(inputs, dict) else {"token_ids": inputs})}


@keras.saving.register_keras_serializable(package="keras_laurel")
class LaurelDecoderBackbone(WithoutPaddingMask, keras_hub.models.Backbone):
    """A pre-norm Transformer decoder with LAuReL joins.

    By default the decoder of today: rotary positions, RMS norms, SwiGLU, grouped queries, no biases, tied embedding.
    `positions="learned", norm="layer", feedforward="mlp", joins="block"` is the shape of the paper's small LM.

    Every block has the same weights: where previous activations reach back before the first block, the embedding
    stands in for the states that are missing.

    Args:
        vocabulary_size: Positive integer, the number of tokens.
        num_layers: Positive integer, the number of blocks.
        num_query_heads: Positive integer, the number of query heads.
        hidden_dim: Positive integer, the width of the stream.
        intermediate_dim: Positive integer, the inner width of the feed-forward layers.
        num_key_value_heads: Positive integer that divides `num_query_heads`. Defaults to it.
        head_dim: Positive integer, the width of a head. Defaults to `hidden_dim / num_query_heads`.
        mixers: Word, or sequence of words, for what mixes positions: the blocks take them in turn, so that
            `("mamba", "mamba", "mamba", "attention")` has attention in every fourth. `"attention"`;
            `"sliding_attention"`, which sees `window` positions; `"linear_attention"`, `"gated_linear_attention"`,
            `"mamba"`, and `"hyena"`, `"multi_head_hyena"` and `"hyena_experts"`, whose filters are
            `max_sequence_length` long. With words of `feedforward` among them, each belongs to the mixer before it, and
            other mixers have none: `("mamba", "mamba", "attention", "swiglu")` is three blocks.
        window: Positive integer, the positions that sliding attention sees.
        residual: The join, see `keras_laurel.residual`: `"add"`, `"rw"`, `"lr"`, `"pa"`, a sum such as `"rw+lr"`, or
            a callable that makes a layer. To be loaded again, the callable must be registered with
            `keras.saving.register_keras_serializable`, as the classes of this package are. The default gained as much
            as `"rw+lr"`, the paper's choice, for hardly any cost (`applications/laurel_decoder_lm/README.md`).
        rank: Rank of the low-rank maps, for words with `lr`.
        num_activations: Number k of states weighed, for words with `pa`.
        residual_arguments: Dictionary of further arguments of `keras_laurel.residual`, such as `{"norm": "rms"}`. Words
            take `down_initializer=ColumnOrthogonal()` by default, the paper's for language models.
        joins: `"sublayer"` for a join after each mixer and feed-forward layer, `"block"` for one around both.
        positions: `"rotary"`, or `"learned"` for an embedding of the position.
        max_sequence_length: Positive integer, the longest input of learned positions and of Hyena's filters.
        rope_max_wavelength: Positive float, of rotary positions.
        norm: `"rms"`, or `"layer"` for a layer normalization without bias.
        norm_epsilon: Positive float, the epsilon of the norms; or a list of one for each, in their order, the last for
            the output, as `keras_laurel.fold` makes it.
        feedforward: `"swiglu"`; `"mlp"`, two kernels with GELU between; `"moe"`, eight experts of an eighth of the
            width, two of which have a weight at a position; or `"none"`. Of all blocks, where `mixers` names none.
        tie_embeddings: Whether the output layer is the embedding transposed.
        dropout: Float in [0, 1), see `LaurelDecoderBlock`.
        remat: See `LaurelDecoderBlock`.
        dtype: A Keras dtype policy, or its name.
        **kwargs: Arguments of `keras_hub.models.Backbone`, such as `name`.

    Call arguments:
        inputs: Dictionary of `"token_ids"`, integers of shape `(batch, length)`, and, where there is padding,
            `"padding_mask"` of the same shape, zero where a token is padding. An array of token ids alone is fine.
            Without a mask, attention takes the backend's fastest causal kernel.

    Returns:
        Float tensor `(batch, length, hidden_dim)`, the normalized last state.

    Raises:
        ValueError: If an argument is unknown or out of range.

    Example:
    >>> from keras_laurel.applications import LaurelDecoderBackbone
    >>> backbone = LaurelDecoderBackbone(256, 2, 4, 32, 64, residual="rw+lr", rank=4)
    >>> tuple(backbone(np.array([[1, 2, 3]])).shape)
    (1, 3, 32)

    Reference:
        [Menghani et al., 2025](https://arxiv.org/abs/2411.07501), section 3.2
    """

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_query_heads,
        hidden_dim,
        intermediate_dim,
        num_key_value_heads=None,
        head_dim=None,
        mixers=("attention",),
        window=256,
        residual="rw",
        rank=None,
        num_activations=None,
        residual_arguments=None,
        joins="sublayer",
        positions="rotary",
        max_sequence_length=1024,
        rope_max_wavelength=10_000,
        norm="rms",
        norm_epsilon=1e-6,
        feedforward="swiglu",
        tie_embeddings=True,
        dropout=0.0,
        remat=False,
        dtype=None,
        **kwargs,
    ):
        _one_of("joins", joins, JOINS)
        _one_of("positions", positions, POSITIONS)
        _one_of("norm", norm, NORMS)
        _one_of("feedforward", feedforward, FEEDFORWARDS)
        sizes = {
            "vocabulary_size": vocabulary_size,
            "num_layers": num_layers,
            "num_query_heads": num_query_heads,
            "hidden_dim": hidden_dim,
            "intermediate_dim": intermediate_dim,
            "num_key_value_heads": num_query_heads if num_key_value_heads is None else num_key_value_heads,
            "max_sequence_length": max_sequence_length,
            "window": window,
        }
        for key, value in sizes.items():
            positive_integer(key, value)
        mixers = (mixers,) if isinstance(mixers, str) else tuple(mixers)
        blocks = blocks_of(mixers, feedforward)
        blocks = [blocks[i % len(blocks)] for i in range(num_layers)]
        unknown = set(kwargs) - {"name", "trainable"}  # which keras_hub would not mind
        if unknown:
            raise ValueError(f"Expected arguments of `LaurelDecoderBackbone`. Received: {', '.join(sorted(unknown))}")

        num_sublayers = sum(1 if feed == "none" else 2 for _, feed in blocks)
        num_norms = num_sublayers + 1
        epsilons: Any = norm_epsilon if isinstance(norm_epsilon, (list, tuple)) else [norm_epsilon] * num_norms
        if len(epsilons) != num_norms:
            raise ValueError(
                f"Expected `norm_epsilon` to be one number, or {num_norms}, as many as there are norms. "
                f"Received: {len(epsilons)} numbers"
            )

        # === Layers ===
        # "Small init" of Nguyen and Salazar, 2019: 0.02 at a width of 1,000. What is added to the stream is scaled down
        # by the square root of how often that happens (GPT-2).
        deviation = math.sqrt(2 / (5 * hidden_dim))
        initializers = {
            "kernel_initializer": keras.initializers.RandomNormal(stddev=deviation),
            "output_initializer": keras.initializers.RandomNormal(stddev=deviation / math.sqrt(num_sublayers)),
        }
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=tie_embeddings,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=deviation),
            # Which the layer forgets within a model: in mixed precision it would multiply float32 for the logits.
            reverse_dtype=keras.dtype_policies.get(dtype).compute_dtype,
            dtype=dtype,
            name="token_embedding",
        )
        self.position_embedding = None
        if positions == "learned":
            self.position_embedding = LearnedPositions(
                max_sequence_length,
                initializer=keras.initializers.RandomNormal(stddev=deviation),
                dtype=dtype,
                name="position_embedding",
            )

        further = dict(residual_arguments or {})
        if not callable(residual):  # which may not take it
            further.setdefault("down_initializer", ColumnOrthogonal())

        def join(name):
            return make_join(residual, rank=rank, num_activations=num_activations, name=name, dtype=dtype, **further)

        wavelength: Any = rope_max_wavelength if positions == "rotary" else None
        names = ("mixer_join", "feedforward_join") if joins == "sublayer" else ("join",)
        all_joins = [[join(name) for name in (names[:1] if feed == "none" else names)] for _, feed in blocks]
        weighs_first = any(getattr(join, "previous", "last") == "first" for block in all_joins for join in block)
        self.transformer_layers, of_norms = [], iter(epsilons)
        for i, (word, feed) in enumerate(blocks):
            own: Any = [next(of_norms) for _ in range(1 if feed == "none" else 2)]
            block = LaurelDecoderBlock(
                make_mixer(word, {**sizes, "head_dim": head_dim}, wavelength, dtype=dtype, **initializers),
                make_feedforward(feed, intermediate_dim, dtype=dtype, **initializers),
                all_joins[i],
                norm=norm,
                norm_epsilon=own,
                dropout=dropout,
                remat=remat,
                previous="first" if weighs_first else "last",
                name=f"transformer_layer_{i}",
                dtype=dtype,
            )
            self.transformer_layers.append(block)
        final_norm = keras.layers.RMSNormalization if norm == "rms" else keras.layers.LayerNormalization
        self.layer_norm = final_norm(
            epsilon=epsilons[-1], name="output_norm", dtype=dtype, **({} if norm == "rms" else {"center": False})
        )

        # === Functional Model ===
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        padding_mask = keras.Input((None,), dtype="int32", name="padding_mask", optional=True)
        states = self.embed(token_ids)
        for block in self.transformer_layers:
            states = block(states, padding_mask)
        super().__init__(
            {"token_ids": token_ids, "padding_mask": padding_mask},  # pyright: ignore[reportCallIssue]
            self.layer_norm(states[0]),
            dtype=dtype,
            **kwargs,
        )

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_query_heads = num_query_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_key_value_heads = num_key_value_heads or num_query_heads
        self.head_dim = head_dim
        self.mixers = mixers
        self.window = window
        self.residual = residual
        self.rank = rank
        self.num_activations = num_activations
        self.residual_arguments = dict(residual_arguments or {})
        self.joins = joins
        self.positions = positions
        self.max_sequence_length = max_sequence_length
        self.rope_max_wavelength = rope_max_wavelength
        self.norm = norm
        self.norm_epsilon = norm_epsilon
        self.feedforward = feedforward
        self.tie_embeddings = tie_embeddings
        self.dropout = dropout
        self.remat = remat

    def call(self, inputs, training=None, mask=None, **kwargs):
        whole = self._whole(inputs)
        self._check_length(whole["token_ids"])
        scales_kernels, projects_ahead = training and self._scales_kernels, training and self._projects_ahead
        if not scales_kernels and not projects_ahead:
            return super().call(inputs, training=training, mask=mask, **kwargs)
        states = self.embed(whole["token_ids"])
        shared: Any = {}
        if scales_kernels:
            shared["scaled_kernels"] = ScaledKernels(self._all_joins)
        if projects_ahead:
            shared["ahead"] = ProjectionsAhead(self._all_joins, states)
        for block in self.transformer_layers:
            states = block(states, whole["padding_mask"], training=training, **shared)
        if scales_kernels:
            return shared["scaled_kernels"].normalize(self.layer_norm, states[0])
        return self.layer_norm(states[0])

    @property
    def _all_joins(self):
        return [join for block in self.transformer_layers for join in block.joins]

    @property
    def _projects_ahead(self):
        # What a block made within `remat` could not leave it.
        if self.remat or not all(getattr(join, "projects_ahead", False) for join in self._all_joins):
            return False
        maps = [join.augmentation.low_rank for join in self._all_joins]
        return len({(len(low_rank.downs), low_rank.rank) for low_rank in maps}) == 1

    @property
    def _scales_kernels(self):
        if self.remat or self.joins != "sublayer":
            return False
        if any(block.non_trainable_weights for block in self.transformer_layers):  # no gradient of frozen kernels
            return False
        return ScaledKernels.suit(self._all_joins)

    def _check_length(self, token_ids):
        most, length = getattr(self.position_embedding, "sequence_length", None), token_ids.shape[1]
        if most is not None and length is not None and length > most:
            raise ValueError(
                f"Expected at most {most} tokens, as many as there are learned positions (`max_sequence_length`). "
                f"Received: {length} tokens"
            )

    get_layout_map = staticmethod(layout_map)

    def embed(self, token_ids, start_index=0):
        """Returns the states that the first block takes.

        Args:
            token_ids: Integer tensor `(batch, length)`.
            start_index: Integer, or integer scalar tensor, the position of the first token.

        Raises:
            ValueError: If there are more tokens than learned positions.
        """
        self._check_length(token_ids)
        x = self.token_embedding(token_ids)
        if self.position_embedding is not None:
            x = keras.ops.add(x, self.position_embedding(x, start_index=start_index))
        return first_states(x, self._all_joins)

    def get_config(self):
        config = super().get_config()
        if self.dtype_policy.name.startswith("mixed_"):
            # keras_hub 0.32 takes the name of a policy in a preset for a dtype, but hands on a map of policies.
            config["dtype"] = keras.dtype_policies.serialize(keras.dtype_policies.DTypePolicyMap(self.dtype_policy))
        return {
            **config,
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_query_heads": self.num_query_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "mixers": list(self.mixers),
            "window": self.window,
            "residual": _serialized(self.residual),
            "rank": self.rank,
            "num_activations": self.num_activations,
            "residual_arguments": keras.saving.serialize_keras_object(self.residual_arguments),
            "joins": self.joins,
            "positions": self.positions,
            "max_sequence_length": self.max_sequence_length,
            "rope_max_wavelength": self.rope_max_wavelength,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "feedforward": self.feedforward,
            "tie_embeddings": self.tie_embeddings,
            "dropout": self.dropout,
            "remat": self.remat,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["residual"] = _deserialized(config["residual"])
        config["residual_arguments"] = keras.saving.deserialize_keras_object(config["residual_arguments"])
        if isinstance(config["dtype"], dict):
            config["dtype"] = keras.dtype_policies.get(config["dtype"])
        if isinstance(config["dtype"], keras.dtype_policies.DTypePolicyMap) and not len(config["dtype"]):
            config["dtype"] = config["dtype"].default_policy
        return cls(**config)


def _serialized(residual):
    if isinstance(residual, type):
        return {"registered_class": keras.saving.get_registered_name(residual)}
    return keras.saving.serialize_keras_object(residual)


def _deserialized(residual):
    if not isinstance(residual, dict) or "registered_class" not in residual:
        return keras.saving.deserialize_keras_object(residual)
    found = keras.saving.get_registered_object(residual["registered_class"])
    if found is None:
        raise ValueError(
            "Expected the class of the joins to be registered with `keras.saving.register_keras_serializable`. "
            f"Received: residual={residual['registered_class']!r}"
        )
    return found
