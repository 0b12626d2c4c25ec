"""The residual weights of LAuReL-RW: alpha and beta of a join."""

import keras
from keras import ops

FORMS = ("softmax", "sigmoid", "single", "free")


@keras.saving.register_keras_serializable(package="keras_laurel")
class ResidualWeights(keras.layers.Layer):
    """Holds the learned weights `alpha` (of the branch) and `beta` (of the skip) of one join.

    Each form maps its logits `w`, which start at zero, to weights that start at `scale / 2`:

    | `form` | alpha, beta | weights |
    |---|---|---|
    | `"softmax"` | `scale * softmax([w0, w1])`, so that alpha + beta = `scale` | 2 |
    | `"sigmoid"` | `scale * sigmoid(w0)`, `scale * sigmoid(w1)` | 2 |
    | `"single"` | `scale * sigmoid(w0)`, `scale * sigmoid(-w0)` | 1 |
    | `"free"` | `w0`, `w1`: unbounded, starting at `scale / 2` instead of zero | 2 |

    The layer has no inputs: a join reads `alpha_beta()`.

    Args:
        form: One of the above.
        scale: Positive float. 2.0 starts at alpha = beta = 1, the plain residual; 1.0 is the paper's literal
            form, which halves the stream at every join.
        per_channel: If true, each channel has its own alpha and beta.
        **kwargs: Standard layer arguments, such as `name` and `dtype`.

    Raises:
        ValueError: If `form` is unknown or `scale` is not positive.

    Example:
    >>> weights = keras_laurel.layers.ResidualWeights("softmax")
    >>> weights.build((None, 8))
    >>> alpha, beta = weights.alpha_beta()
    >>> ops.convert_to_numpy(alpha).item(), ops.convert_to_numpy(beta).item()
    (1.0, 1.0)

    Reference:
        [Menghani et al., 2025](https://arxiv.org/abs/2411.07501), section 2.1
    """

    def __init__(self, form="softmax", scale=2.0, per_channel=False, **kwargs):
        super().__init__(**kwargs)
        if form not in FORMS:
            raise ValueError(f"Expected the form of the residual weights to be one of {FORMS}. Received: {form!r}")
        if not scale > 0:
            raise ValueError(f"Expected a positive `scale`. Received: scale={scale}")
        self.form = form
        self.scale = float(scale)
        self.per_channel = per_channel

    def build(self, input_shape):
        num_logits = 1 if self.form == "single" else 2
        self.logits = self.add_weight(
            name="logits",
            shape=(num_logits, input_shape[-1]) if self.per_channel else (num_logits,),
            initializer=keras.initializers.Constant(self.scale / 2 if self.form == "free" else 0.0),
            dtype=keras.backend.result_type(self.variable_dtype, "float32"),
            autocast=False,
        )

    def alpha_beta(self):
        """Returns `(alpha, beta)`: scalars, or vectors of shape `(dim,)` if `per_channel`; at least float32."""
        return alpha_beta(self.form, self.scale, ops.convert_to_tensor(self.logits))

    def get_config(self):
        config = super().get_config()
        return {**config, "form": self.form, "scale": self.scale, "per_channel": self.per_channel}


def alpha_beta(form, scale, logits):
    """Returns alpha and beta, of the shape of `logits[0]`; see `ResidualWeights`."""
    if form == "free":
        return logits[0], logits[1]
    if form == "single":
        return scale * ops.sigmoid(logits[0]), scale * ops.sigmoid(-logits[0])
    bounded = scale * (ops.softmax(logits, axis=0) if form == "softmax" else ops.sigmoid(logits))
    return bounded[0], bounded[1]
