"""The loss of a language model, over rows of logits."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_laurel")
class TokenCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """`keras.losses.SparseCategoricalCrossentropy` from logits, at its full speed on sequences under PyTorch.

    Keras there moves the classes to the second axis, and PyTorch's softmax then goes through memory across rows. The
    values are the same, and on other backends so is the computation.

    Args:
        from_logits: As Keras's, but true by default.
        **kwargs: Arguments of `keras.losses.SparseCategoricalCrossentropy`.

    Call arguments:
        y_true: Integer tensor `(batch, length)`, the tokens.
        y_pred: Float tensor `(batch, length, vocabulary_size)`, their logits.

    Returns:
        Float tensor, in `dtype` (by default float32): a scalar, or `(batch, length)` without a reduction.

    Example:
    >>> from keras_laurel.applications.laurel_decoder.crossentropy import TokenCrossentropy
    >>> loss = TokenCrossentropy()(np.array([[1]]), np.log([[[0.5, 0.25, 0.25]]]))
    >>> round(float(loss), 4)
    1.3863
    """

    def __init__(self, from_logits=True, **kwargs):
        super().__init__(from_logits=from_logits, **kwargs)

    def call(self, y_true, y_pred):
        shape = tuple(y_pred.shape)
        if keras.backend.backend() != "torch" or self.ignore_class is not None or tuple(y_true.shape) != shape[:-1]:
            return super().call(y_true, y_pred)
        losses = super().call(ops.reshape(y_true, (-1,)), ops.reshape(y_pred, (-1, shape[-1])))
        return ops.reshape(losses, shape[:-1])
