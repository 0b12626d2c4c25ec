"""Causal attention with grouped queries, rotary positions and a cache."""

import keras
from keras import ops

from keras_laurel.layers.quantization import dtype_with_quantized_sublayers
from keras_laurel.mixers.last_layer import apply


@keras.saving.register_keras_serializable(package="keras_laurel")
class CausalAttention(keras.layers.Layer):
    """Multi-head attention of each position to itself and those before it.

    The kernels are four `keras.layers.EinsumDense`, named `query`, `key`, `value` and `attention_output`, which
    `enable_lora`, `quantize` and layout maps find. With `D = dim`, `H = num_heads`, `G = num_key_value_heads`
    and `d = head_dim` there are `2 * D * d * (H + G)` weights, and `d * (H + 2 * G) + D` of biases if they are wanted.
    While decoding, a position keeps `2 * G * d` floats.

    Args:
        num_heads: Positive integer, the number of query heads.
        num_key_value_heads: Positive integer that divides `num_heads`: each key and value head serves
            `num_heads / num_key_value_heads` query heads. Defaults to `num_heads`.
        head_dim: Positive integer, the width of a head, even if there are rotary positions. Defaults to
            `dim / num_heads`.
        rope_max_wavelength: Positive float, the longest wavelength of the rotary positions (which need keras_hub), or
            `None` for no positions at all.
        window: Positive integer, how many positions a query attends to, the last of which is its own, or `None` for all
            of them. It changes which scores count, not how many are computed.
        use_bias: Whether the four projections have biases.
        kernel_initializer: Initializer of the query, key and value kernels.
        output_initializer: Initializer of the output kernel. Defaults to `kernel_initializer`.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Call arguments:
        x: Float tensor of shape `(batch, length, dim)`.
        attention_mask: Boolean tensor that broadcasts to `(batch, num_heads, length, keys)`, true where a query may
            attend to a key. Without a cache it is joined with the causal mask, so that a mask of shape
            `(batch, 1, 1, length)` says which positions are padding. With a cache it must be whole, and the same for
            all heads.
        cache: Pair of float tensors `(batch, capacity, num_key_value_heads, head_dim)`, keys and values of the
            positions before.
        cache_index: Integer, or integer scalar tensor, the position of the first of `x`. Needed with a cache. Without
            an `attention_mask` it must be 0, and `x` as long as the cache.
        num_kept: Not used: what the cache has of later positions is written over, and not seen before.
        project: Function that applies the last layer to its input; by default the layer's call.

    Returns:
        Tensor of the shape of `x`, in the compute dtype; with a cache, a pair of it and the cache with the new
        positions written into it.

    Raises:
        ValueError: If `num_key_value_heads` does not divide `num_heads`, `window` is no positive integer, or on the
            first call if `num_heads` does not divide `dim` (and no `head_dim` is given) or the width of a rotated head
            is odd.

    Example:
    >>> layer = keras_laurel.mixers.CausalAttention(num_heads=4, num_key_value_heads=2)
    >>> tuple(layer(np.ones((1, 3, 8), "float32")).shape), layer.count_params()
    ((1, 3, 8), 192)

    Reference:
        [Ainslie et al., 2023](https://arxiv.org/abs/2305.13245) (grouped queries);
        [Su et al., 2021](https://arxiv.org/abs/2104.09864) (rotary positions)
    """

    def __init__(
        self,
        num_heads,
        num_key_value_heads=None,
        head_dim=None,
        rope_max_wavelength=10_000,
        kernel_initializer="glorot_uniform",
        output_initializer=None,
        window=None,
        use_bias=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_key_value_heads = num_key_value_heads or num_heads
        if num_heads < 1 or num_heads % self.num_key_value_heads:
            raise ValueError(
                "Expected `num_key_value_heads` to divide `num_heads`. "
                f"Received: num_heads={num_heads}, num_key_value_heads={num_key_value_heads}"
            )
        if window is not None and window < 1:
            raise ValueError(f"Expected `window` to be a positive integer or None. Received: window={window}")
        self.window = window
        self.use_bias = use_bias
        self.head_dim = head_dim
        self.rope_max_wavelength = rope_max_wavelength
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer or kernel_initializer)
        self.supports_masking = True
        self.rotary_embedding = None
        if rope_max_wavelength is not None:
            from keras_hub.layers import RotaryEmbedding

            self.rotary_embedding = RotaryEmbedding(
                rope_max_wavelength, name="rotary_embedding", dtype=self.dtype_policy
            )

    def build(self, input_shape):
        self.dim = dim = input_shape[-1]
        if self.head_dim is None and dim % self.num_heads:
            raise ValueError(
                "Expected `num_heads` to divide the number of channels. "
                f"Received: num_heads={self.num_heads}, input_shape={tuple(input_shape)}"
            )
        head_dim = self.head_dim or dim // self.num_heads
        if self.rotary_embedding is not None and head_dim % 2:
            raise ValueError(f"Expected an even width of a head with rotary positions. Received: head_dim={head_dim}")

        def projection(name, num_heads):
            layer = keras.layers.EinsumDense(
                "btd,dhk->bthk",
                (None, num_heads, head_dim),
                bias_axes="hk" if self.use_bias else None,
                kernel_initializer=self.kernel_initializer.clone(),
                name=name,
                dtype=self.dtype_policy,
            )
            layer.build(input_shape)
            return layer

        self.query = projection("query", self.num_heads)
        self.key = projection("key", self.num_key_value_heads)
        self.value = projection("value", self.num_key_value_heads)
        self.attention_output = keras.layers.EinsumDense(
            "bthk,hkd->btd",
            (None, dim),
            bias_axes="d" if self.use_bias else None,
            kernel_initializer=self.output_initializer.clone(),
            name="attention_output",
            dtype=self.dtype_policy,
        )
        self.attention_output.build((*input_shape[:-1], self.num_heads, head_dim))

    def empty_cache(self, batch_size, capacity):
        """Returns the cache before the first of `capacity` positions."""
        shape = (batch_size, capacity, *self.key.kernel.shape[1:])
        return tuple(ops.zeros(shape, self.compute_dtype) for _ in range(2))

    def state_size(self, length):
        """Returns how many floats `length` positions leave that those which follow need."""
        _, num_heads, head_dim = self.key.kernel.shape
        return 2 * min(length, self.window or length) * num_heads * head_dim

    def flops(self, length):
        """Returns the operations for a sequence; a multiplication and an addition count as two.

        Scores are counted before the mask: half of them are not needed, and which kernels spare them differs.
        """
        _, num_heads, head_dim = self.key.kernel.shape
        keys = min(length, self.window or length)
        projections = 4 * self.dim * head_dim * (self.num_heads + num_heads)
        return length * (projections + keys * self.num_heads * (4 * head_dim + 2))

    def call(self, x, attention_mask=None, cache=None, cache_index=None, num_kept=None, project=apply):
        query, key, value = self.query(x), self.key(x), self.value(x)
        groups, one_position = self.num_heads // self.num_key_value_heads, cache is not None and x.shape[1] == 1
        if self.rotary_embedding is not None:
            start = 0 if cache is None else cache_index
            # Made here, as what keras_hub makes itself, `arange` of one argument, is not exported to ONNX from JAX.
            positions = start + ops.arange(0, ops.shape(x)[1], dtype="int32")
            if one_position:
                # In one call, as an eager step of decoding takes as long as it has calls.
                both = self.rotary_embedding(ops.concatenate([query, key], axis=2), positions=positions)
                query, key = ops.split(both, [self.num_heads], axis=2)
            else:
                query = self.rotary_embedding(query, positions=positions)
                key = self.rotary_embedding(key, positions=positions)
        if cache is not None:
            key, value = (
                ops.slice_update(kept, (0, cache_index, 0, 0), ops.cast(new, kept.dtype))
                for kept, new in zip(cache, (key, value))
            )
            cache = (key, value)
        if one_position:
            # The query heads of a key head take the place of positions, so that no key is repeated for them.
            query = ops.reshape(query, (-1, self.num_key_value_heads, groups, query.shape[-1]))
            query = ops.swapaxes(query, 1, 2)
        elif groups > 1 and keras.backend.backend() == "tensorflow":
            # Keras's attention repeats them itself, but on TensorFlow not a single one.
            key, value = (ops.repeat(t, groups, axis=2) for t in (key, value))
        is_causal = cache is None or attention_mask is None
        if self.window is not None:
            queries, keys = (ops.arange(0, ops.shape(t)[1], dtype="int32") for t in (x, key))
            queries = queries + (0 if cache is None else cache_index)
            near = ops.expand_dims(ops.expand_dims(queries, 1) - keys < self.window, (0, 1))
            attention_mask = near if attention_mask is None else ops.logical_and(attention_mask, near)
        if attention_mask is not None and keras.backend.backend() == "jax":
            # Of masks, cuDNN's attention takes those alone that have a row for each query.
            rows = (*attention_mask.shape[:-2], query.shape[1], key.shape[1])
            attention_mask = ops.broadcast_to(attention_mask, rows)
        # PyTorch takes flash attention where it can; Keras's question whether it can breaks torch.compile's graphs.
        # One position has too few scores for it.
        flash = False if one_position or keras.backend.backend() == "torch" else None
        outputs = ops.dot_product_attention(
            query, key, value, mask=attention_mask, is_causal=is_causal, flash_attention=flash
        )
        if one_position:
            outputs = ops.reshape(ops.swapaxes(outputs, 1, 2), (-1, 1, self.num_heads, outputs.shape[-1]))
        outputs = project(self.attention_output, outputs)
        return outputs if cache is None else (outputs, cache)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "rope_max_wavelength": self.rope_max_wavelength,
            "window": self.window,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "output_initializer": keras.initializers.serialize(self.output_initializer),
            "dtype": dtype_with_quantized_sublayers(self),
        }
