"""What an attention mask says to a mixer that has no scores to mask."""

from keras import ops


def kept_positions(attention_mask):
    """Returns which positions are not padding.

    Args:
        attention_mask: Boolean tensor `(batch, length)`, or `(batch, 1, 1, length)` as `CausalAttention` takes it;
            false where a position is padding.

    Returns:
        Boolean tensor `(batch, length)`.

    Raises:
        ValueError: If the mask is another for each query or head: a recurrence has one state for all of them.
    """
    shape = tuple(attention_mask.shape)
    if len(shape) == 4 and shape[1:3] == (1, 1):
        attention_mask = ops.squeeze(attention_mask, (1, 2))
    elif len(shape) != 2:
        raise ValueError(
            "Expected an `attention_mask` of padding, `(batch, length)` or `(batch, 1, 1, length)`. "
            f"Received: shape {shape}"
        )
    return ops.cast(attention_mask, "bool")
