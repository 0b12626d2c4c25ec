"""Learning rates over the steps."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_laurel")
class WarmupStableDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warmup from zero, a constant rate, and a linear decay at the end.

    Args:
        learning_rate: Float, the constant rate.
        steps: Positive integer, the number of steps in all.
        warmup_steps: Integer, the length of the warmup.
        decay_steps: Integer, the length of the decay; the warmup and it fit into `steps`.
        final_rate: Float, the rate at the end, as a part of `learning_rate`.
        name: Name of the schedule.

    Raises:
        ValueError: If warmup and decay do not fit.

    Example:
    >>> from applications.laurel_decoder_lm.schedules import WarmupStableDecay
    >>> rate = WarmupStableDecay(1.0, steps=10, warmup_steps=2, decay_steps=4)
    >>> [float(rate(step)) for step in (0, 1, 2, 6, 8, 10)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    Reference:
        [Hu et al., 2024](https://arxiv.org/abs/2404.06395)
    """

    def __init__(self, learning_rate, steps, warmup_steps, decay_steps, final_rate=0.0, name="warmup_stable_decay"):
        super().__init__()
        if warmup_steps + decay_steps > steps:
            raise ValueError(
                "Expected a warmup and a decay that fit into the steps. "
                f"Received: steps={steps}, warmup_steps={warmup_steps}, decay_steps={decay_steps}"
            )
        self.learning_rate = learning_rate
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.decay_steps = decay_steps
        self.final_rate = final_rate
        self.name = name

    def __call__(self, step):
        step = ops.cast(step, "float32")
        up = step / max(self.warmup_steps, 1) if self.warmup_steps else 1.0
        left = ops.clip((self.steps - step) / max(self.decay_steps, 1), 0.0, 1.0)
        return self.learning_rate * ops.minimum(up, self.final_rate + (1.0 - self.final_rate) * left)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "decay_steps": self.decay_steps,
            "final_rate": self.final_rate,
            "name": self.name,
        }


def schedule(config):
    """Returns the schedule of `config`, over its steps."""
    if config.schedule == "wsd":
        decay_steps = min(round(config.decay_part * config.steps), config.steps - config.warmup_steps)
        return WarmupStableDecay(
            config.learning_rate, config.steps, config.warmup_steps, decay_steps, config.final_rate
        )
    return keras.optimizers.schedules.CosineDecay(
        0.0 if config.warmup_steps else config.learning_rate,
        config.steps - config.warmup_steps,
        alpha=config.final_rate,
        warmup_target=config.learning_rate if config.warmup_steps else None,
        warmup_steps=config.warmup_steps,
    )
