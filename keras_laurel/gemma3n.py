"""Weights of Gemma 3n's LAuReL blocks, read into `Laurel`."""

from keras import ops

from keras_laurel.layers import LowRank


def load_gemma3n_weights(join, weights, block=None):
    """Sets the weights of `join` to those of the LAuReL block of one of Gemma 3n's decoder blocks.

    That block returns `x + post_laurel_norm(linear_right(linear_left(x)))`, which is `Laurel(rank=r, norm="rms")` of
    `[x, zeros]`. Gemma 3n calls it on the *normalized* stream and joins `(stream + attention + laurel(x)) / sqrt(2)`,
    which as a whole is `Laurel("free", scale=2**0.5, rank=r, norm="rms")` of `[x, stream + attention]`. The residual
    weights, which Gemma 3n has not, are left as they are.

    | `Laurel` | keras_hub, kernels as they are | Hugging Face, kernels transposed |
    |---|---|---|
    | `down` (dim, rank) | `linear_left/kernel` | `linear_left.weight` |
    | `up` (rank, dim) | `linear_right/kernel` | `linear_right.weight` |
    | `gain` (dim), not `1 + gain` | `post_laurel_norm/scale` | `post_laurel_norm.weight` |

    Gemma 3n's norm epsilon is 1e-6, as is the default of `Laurel`. In bfloat16, `Laurel` computes the norm and the
    sum in float32 and rounds once; Hugging Face rounds the norm too, keras_hub each step of it.

    Args:
        join: A built `Laurel(rank=r, norm="rms")`, without previous activations. Other arguments are free.
        weights: Mapping of names to arrays: `model.state_dict()` of a PyTorch model,
            `{weight.path: weight for weight in backbone.weights}` of a keras_hub one, a loaded safetensors file, or a
            part of these. Names may have any prefix. NumPy arrays, Keras variables and tensors of PyTorch are read.
        block: Integer, the index of the decoder block. May be left out if `weights` has one LAuReL block only.

    Raises:
        ValueError: If `join` is not built or has another form, its factors are quantized or have LoRA, `weights` has
            not one array for each name, or an array has another shape; `join` is unchanged then.

    Example:
    >>> join = keras_laurel.Laurel(rank=2, norm="rms")
    >>> join.build([(None, None, 8)] * 2)
    >>> state_dict = {
    ...     "model.layers.3.laurel.linear_left.weight": np.ones((2, 8)),
    ...     "model.layers.3.laurel.linear_right.weight": np.ones((8, 2)),
    ...     "model.layers.3.laurel.post_laurel_norm.weight": np.ones(8),
    ... }
    >>> keras_laurel.load_gemma3n_weights(join, state_dict, block=3)
    >>> x = np.ones((1, 1, 8), "float32")
    >>> ops.convert_to_numpy(join([x, np.zeros_like(x)])).tolist()
    [[[2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]]]
    """
    low_rank = getattr(join, "augmentation", None)
    if not isinstance(low_rank, LowRank) or not join.norm:
        raise ValueError(
            "Expected `join` to be a `Laurel(rank=..., norm='rms')` without previous activations. "
            f"Received: join={join!r}"
        )
    if not join.built:
        raise ValueError(f"Expected a built `join`: an unbuilt one has no weights to set. Received: {join.name}")
    down, up = low_rank.downs[0], low_rank.up
    if any(dense.quantization_mode is not None or dense.lora_enabled for dense in (down, up)):
        raise ValueError(f"Expected a `join` without quantization and LoRA, which come after. Received: {join.name}")
    targets = {"linear_left": down.kernel, "linear_right": up.kernel, "post_laurel_norm": join.gain}
    values = [_read(weights, block, name, tuple(target.shape)) for name, target in targets.items()]
    for target, value in zip(targets.values(), values):
        target.assign(value)


def _read(weights, block, name, shape):
    """Returns the weight called `name`, checked to have `shape` (transposed in Hugging Face's naming)."""
    hugging_face, keras_hub = f"{name}.weight", f"{name}/{'kernel' if len(shape) == 2 else 'scale'}"
    if block is not None:
        hugging_face, keras_hub = f"layers.{block}.laurel.{hugging_face}", f"decoder_block_{block}/laurel/{keras_hub}"
    keys = [key for key in weights if f".{key}".endswith(f".{hugging_face}") or f"/{key}".endswith(f"/{keras_hub}")]
    if len(keys) != 1:
        listed = ", ".join(map(repr, list(keys or weights)[:5]))
        raise ValueError(
            f"Expected `weights` to have one key that ends in '{hugging_face}' or '{keras_hub}', with `block` the "
            f"index of the decoder block to read. Received: {len(keys)} such keys, block={block}, "
            f"{'these' if keys else 'and the keys'} {listed}{', ...' if len(keys or weights) > 5 else ''}"
        )
    key, value = keys[0], weights[keys[0]]
    transposed = key.endswith(".weight")
    expected = shape[::-1] if transposed else shape
    if tuple(value.shape) != expected:
        raise ValueError(f"Expected '{key}' to have shape {expected}. Received: shape={tuple(value.shape)}")
    return _numpy(value).T if transposed else _numpy(value)


def _numpy(value):
    """Returns a float64 array: exact for every type of a checkpoint, those that NumPy lacks included."""
    if hasattr(value, "detach"):  # a tensor of PyTorch, under any backend; NumPy reads none in bfloat16
        return value.detach().cpu().double().numpy()
    return ops.convert_to_numpy(value).astype("float64")
