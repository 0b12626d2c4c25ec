"""The model of a run, and what trains it."""

import keras
from keras import ops

from applications.errors import UserError
from applications.initializers import initializer
from applications.joins import JOINS
from applications.laurel_decoder_lm.schedules import schedule
from applications.peers import PEERS
from keras_laurel import exclude_from_weight_decay
from keras_laurel.applications import LaurelCausalLMPreprocessor, LaurelDecoderLM
from keras_laurel.applications.laurel_decoder.crossentropy import TokenCrossentropy
from keras_laurel.applications.laurel_decoder.sizes import SIZES


def check(config):
    """Refuses a `config` with joins or a size that there are not.

    Raises:
        UserError: If there are none of the name.
    """
    for key, known in (("residual", JOINS), ("size", SIZES)):
        if getattr(config, key) not in known:
            raise UserError(f"unknown {key} {getattr(config, key)!r}; known: {', '.join(known)}")


def build(config, tokenizer):
    """Returns the new `keras_hub.models.CausalLM` of `config`. Models of a seed start from equal weights.

    Args:
        config: A `Config`.
        tokenizer: See `tokenization.load`.

    Raises:
        UserError: If the joins or the size are unknown, or the widths do not fit each other.
    """
    check(config)
    keras.utils.set_random_seed(config.seed)
    shape = {
        "num_layers": config.num_layers,
        "hidden_dim": config.hidden_dim,
        "num_query_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "intermediate_dim": config.intermediate_dim,
    }
    try:
        return LaurelDecoderLM(
            config.size,
            mixers=tuple(config.mixers.split(",")),
            residual=PEERS.get(config.residual, config.residual),
            rank=config.rank,
            num_activations=1 if config.previous == "first" else config.num_activations,
            residual_arguments=_residual_arguments(config),
            joins=config.joins,
            vocabulary_size=tokenizer.vocabulary_size(),
            max_sequence_length=config.context,
            dropout=config.dropout,
            remat=config.remat,
            preprocessor=LaurelCausalLMPreprocessor(tokenizer, sequence_length=config.context),
            **{key: value for key, value in shape.items() if value is not None},
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _residual_arguments(config):
    return {
        "residual_weights": config.residual_weights,
        "scale": config.scale,
        "previous": config.previous,
        "down_initializer": initializer(config.down_initializer),
    }


class Trainer(keras.Model):
    """A language model on token ids that says the loss of each step, and the loss of a token in evaluations.

    The `loss` that Keras says is a mean of batches: of those of the epoch so far in training, and over padding too in
    evaluations. So `fit` adds `step_loss`, and evaluations add `token_loss`, the mean over the tokens by their weights.

    Args:
        lm: A `keras_hub.models.CausalLM`.
    """

    def __init__(self, lm):
        super().__init__()
        self.lm = lm
        # Instead of `compile(loss=...)`, which makes things at the first step that torch.compile fails on.
        self.criterion = TokenCrossentropy()
        self.token_criterion = TokenCrossentropy(reduction=None)
        self.step_loss = _Last(name="step_loss")
        self.token_loss = keras.metrics.Mean(name="token_loss")

    def call(self, tokens, training=None):
        return self.lm({"token_ids": tokens}, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if training:
            loss = self.criterion(y, y_pred, sample_weight)
            self.step_loss.update_state(loss * _replicas())
            return loss
        losses = self.token_criterion(y, y_pred)
        self.token_loss.update_state(losses, sample_weight)
        return ops.mean(losses)


@keras.saving.register_keras_serializable(package="keras_laurel")
class _Last(keras.metrics.Metric):
    """The value of the last update; over replicas, which add their variables, the mean of theirs."""

    def __init__(self, name="last", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.last = self.add_variable((), "zeros", name="last")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, value):
        self.last.assign(ops.cast(ops.stop_gradient(value), self.dtype))
        self.count.assign(ops.ones((), self.dtype))

    def result(self):
        return ops.divide_no_nan(self.last, self.count)


def _replicas():
    """Returns by how many replicas Keras has divided a loss: under TensorFlow, where their gradients are added."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def trainer(lm, config):
    """Returns a compiled `Trainer` over the layers of `lm`, whose optimizer is built."""
    optimizer = keras.optimizers.AdamW(
        schedule(config),
        weight_decay=config.weight_decay or None,
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        global_clipnorm=config.clip_norm,
        gradient_accumulation_steps=config.accumulate if config.accumulate > 1 else None,
    )
    if config.weight_decay:
        # Kernels alone: no norms, no embeddings.
        exclude_from_weight_decay(optimizer, lm, [w for w in lm.trainable_weights if w.name != "kernel"])
    if keras.backend.backend() == "torch" and config.jit == "true":
        import torch

        # Of Keras's schedules and conditions torch.compile makes another version at each step, until it gives up.
        optimizer.apply = torch.compiler.disable(optimizer.apply)
    model = scorer(lm, config, optimizer)
    model.optimizer.build(model.trainable_variables)
    return model


def scorer(lm, config, optimizer=None):
    """Returns a compiled `Trainer` of `lm`; without an optimizer, for evaluations."""
    model = Trainer(lm)
    model.build((None, config.context))
    model.compile(optimizer, jit_compile={"auto": "auto", "true": True, "false": False}[config.jit])
    return model


def state_variables(model):
    """Returns the variables that decide how the training of a `Trainer` goes on."""
    return [*model_variables(model), *model.optimizer.variables]


def model_variables(model):
    """Returns those that decide what a `Trainer` computes; the first of `state_variables`."""
    return [*model.trainable_variables, *model.non_trainable_variables]
