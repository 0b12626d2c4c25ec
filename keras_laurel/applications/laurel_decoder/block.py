"""A block of the decoder: a sequence mixer, a feed-forward layer and the joins."""

from typing import Any

import keras
from keras import ops

from keras_laurel.history import advance

NORMS = ("rms", "layer")


@keras.saving.register_keras_serializable(package="keras_laurel")
class LaurelDecoderBlock(keras.layers.Layer):
    """A pre-norm decoder block whose joins are LAuReL ones.

    With two joins, each sublayer has its own:

        x = join_0(x, mixer(norm(x)))
        x = join_1(x, feedforward(norm(x)))

    With one join, the block as a whole is the branch, as the paper counts joins:

        fx = mixer(norm(x))
        x = join(x, fx + feedforward(norm(x + fx)))

    Without a feed-forward layer a block is `join(x, mixer(norm(x)))`.

    The block maps the states of the stream to the states after it, so that previous activations cross blocks without
    being kept anywhere.

    Args:
        mixer: A layer `(batch, length, dim)` to the same shape, such as `CausalAttention`. It takes `attention_mask`,
            `cache`, `cache_index`, `num_kept` and `project` as the mixers of this package do.
        feedforward: A layer of the same shape, such as `SwiGLU`, or `None`.
        joins: List of one or two new layers that join `[x, fx, *previous]`, such as `keras_laurel.residual` makes; of
            one without `feedforward`.
        norm: `"rms"`, or `"layer"` for a layer normalization without bias.
        norm_epsilon: Positive float, the epsilon of the norms, or a list of one for each.
        dropout: Float in [0, 1), the rate at which training drops channels of what the sublayers return.
        remat: Whether the backward pass computes the block anew from its states, instead of keeping what it needs. Not
            with `dropout` or a join's `drop_path`, which would draw anew. A `keras_laurel.Laurel` join then costs as
            little as without, but for two joins under TensorFlow and PyTorch: the second, where it has residual
            weights, has the whole feed-forward layer computed anew, of which `keras.layers.Add` spares the last matmul.
        previous: Which states the stack's joins weigh, `"last"` or `"first"`; see `keras_laurel.history.advance`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        states: List of float tensors `(batch, length, dim)`, newest first: the stream, and as many earlier states as
            the joins weigh. One tensor is taken for a list of one.
        padding_mask: Boolean or integer tensor `(batch, length)`, zero where a position is padding.
        attention_mask, cache, cache_index, num_kept: See the mixer; not together with `padding_mask`.
        ahead: `keras_laurel.history.ProjectionsAhead` of the stack of blocks; not together with `cache` or `remat`.
        scaled_kernels: `ScaledKernels` of the stack of blocks; likewise.

    Returns:
        List of the states after the block, as many as came in; with a cache, a pair of it and the new cache.

    Raises:
        ValueError: If `norm` is unknown, there are not as many joins as there may be, or `remat` meets `dropout` or
            `drop_path`.

    Example:
    >>> from keras_laurel.applications.laurel_decoder import LaurelDecoderBlock
    >>> from keras_laurel.mixers import CausalAttention, SwiGLU
    >>> joins = [keras_laurel.residual("rw+pa", num_activations=2) for _ in range(2)]
    >>> block = LaurelDecoderBlock(CausalAttention(2), SwiGLU(16), joins)
    >>> x = np.ones((1, 3, 8), "float32")
    >>> [tuple(state.shape) for state in block([x, x])]
    [(1, 3, 8), (1, 3, 8)]
    """

    def __init__(
        self,
        mixer,
        feedforward,
        joins,
        norm="rms",
        norm_epsilon=1e-6,
        dropout=0.0,
        remat=False,
        previous="last",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if norm not in NORMS:
            raise ValueError(f"Expected `norm` to be one of {NORMS}. Received: norm={norm!r}")
        if len(joins) not in ((1,) if feedforward is None else (1, 2)):
            raise ValueError(
                f"Expected one join{'' if feedforward is None else ' or two'}. Received: {len(joins)} joins"
            )
        if remat and (dropout or any(getattr(join, "drop_path", 0) for join in joins)):
            raise ValueError(
                "Expected no `dropout` and no `drop_path` with `remat`: computing a block anew would draw anew. "
                f"Received: remat={remat}, dropout={dropout}, drop_path={[getattr(j, 'drop_path', 0) for j in joins]}"
            )
        self.norm = norm
        self.norm_epsilon = norm_epsilon
        self.dropout = dropout
        self.remat = remat
        self.previous = previous
        self.mixer = mixer
        self.feedforward: Any = feedforward
        self.joins = list(joins)
        epsilons = norm_epsilon if isinstance(norm_epsilon, (list, tuple)) else [norm_epsilon] * 2
        self.mixer_norm = self._norm("mixer_norm", epsilons[0])
        self.feedforward_norm: Any = None if feedforward is None else self._norm("feedforward_norm", epsilons[1])
        self.dropouts = [keras.layers.Dropout(dropout, name=f"dropout_{i}", dtype=self.dtype_policy) for i in range(2)]
        self.supports_masking = True

    def _norm(self, name, epsilon):
        if self.norm == "rms":
            return keras.layers.RMSNormalization(epsilon=epsilon, name=name, dtype=self.dtype_policy)
        return keras.layers.LayerNormalization(epsilon=epsilon, center=False, name=name, dtype=self.dtype_policy)

    def build(self, input_shape):
        shapes = input_shape if isinstance(input_shape[0], (list, tuple)) else [input_shape]
        shape = tuple(shapes[0])
        for layer in (self.mixer_norm, self.mixer, self.feedforward_norm, self.feedforward):
            if layer is not None:
                layer.build(shape)
        for join in self.joins:
            join.build([shape] * (2 + min(getattr(join, "max_previous", 0), len(shapes) - 1)))

    def call(
        self,
        states,
        padding_mask=None,
        attention_mask=None,
        cache=None,
        cache_index=None,
        num_kept=None,
        ahead=None,
        scaled_kernels=None,
    ):
        if not isinstance(states, (list, tuple)):
            states = [states]
        if padding_mask is not None:
            attention_mask = ops.cast(ops.expand_dims(padding_mask, (1, 2)), "bool")
        if scaled_kernels is not None:
            return self._call_scaled(states, attention_mask, ahead, scaled_kernels)
        if cache is not None:
            fx, cache = self.mixer(
                self.mixer_norm(states[0]),
                attention_mask=attention_mask,
                cache=cache,
                cache_index=cache_index,
                num_kept=num_kept,
            )
            return self._join(*self._last_branch(states, fx)), cache

        def last_branch(*states):
            fx = self.mixer(self.mixer_norm(states[0]), attention_mask=attention_mask)
            return self._last_branch(states, fx, ahead)

        def run(*states):
            return self._join(*last_branch(*states), ahead)

        if not self.remat:
            return run(*states)
        # The last join's gradient wants the stream after the block, which the next one keeps: computing it again
        # would take the last branch again, which nothing else wants.
        if keras.backend.backend() == "jax":
            import jax

            policy = jax.checkpoint_policies.save_only_these_names(self.joins[-1].path)
            return jax.checkpoint(run, policy=policy)(*states)
        if len(self.joins) == 1:
            return self._join(*keras.remat(last_branch)(*states))
        return keras.remat(run)(*states)

    def _call_scaled(self, states, attention_mask, ahead, scaled_kernels):
        """Returns the states after joins, one a sublayer, of which `scaled_kernels` has the residual weights."""
        sublayers: Any = [(self.mixer_norm, self.mixer, {"attention_mask": attention_mask})]
        if self.feedforward is not None:
            sublayers.append((self.feedforward_norm, self.feedforward, {}))
        for i, (norm, sublayer, arguments) in enumerate(sublayers):
            x = scaled_kernels.normalize(norm, states[0])
            scales = scaled_kernels.next()
            fx = self._drop(i, sublayer(x, project=scales.project, **arguments))
            states = advance(states, self.joins[i], fx, self.previous, ahead, scales)
        return states

    def _last_branch(self, states, fx, ahead=None):
        """Returns the states before the last join and what it joins to them, from what the mixer returned."""
        fx = self._drop(0, fx)
        if self.feedforward is None:
            return states, fx
        if len(self.joins) == 2:
            states = advance(states, self.joins[0], fx, self.previous, ahead)
            return states, self._drop(1, self.feedforward(self.feedforward_norm(states[0])))
        return states, fx + self._drop(1, self.feedforward(self.feedforward_norm(states[0] + fx)))

    def _join(self, states, fx, ahead=None):
        return advance(states, self.joins[-1], fx, self.previous, ahead)

    def _drop(self, index, fx):
        # Without a rate not even called: an eager step of decoding takes as long as it has calls.
        return self.dropouts[index](fx) if self.dropout else fx

    def compute_output_shape(self, input_shape):
        shapes = input_shape if isinstance(input_shape[0], (list, tuple)) else [input_shape]
        return [tuple(shape) for shape in shapes]

    def get_config(self):
        return {
            **super().get_config(),
            "mixer": keras.saving.serialize_keras_object(self.mixer),
            "feedforward": self.feedforward and keras.saving.serialize_keras_object(self.feedforward),
            "joins": [keras.saving.serialize_keras_object(join) for join in self.joins],
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "dropout": self.dropout,
            "remat": self.remat,
            "previous": self.previous,
        }

    @classmethod
    def from_config(cls, config):
        def unbuilt(layer):
            # The block builds its parts, so that the paths of their weights begin with its own.
            return keras.saving.deserialize_keras_object({k: v for k, v in layer.items() if k != "build_config"})

        parts = {key: config[key] and unbuilt(config[key]) for key in ("mixer", "feedforward")}
        return super().from_config({**config, **parts, "joins": [unbuilt(join) for join in config["joins"]]})
