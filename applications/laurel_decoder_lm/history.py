"""What a run has seen so far. A checkpoint has it, so that a run that stopped goes on with one history."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class History:
    """The losses of a run, and its time.

    Attributes:
        losses: The loss of every step.
        parts: One `(steps, seconds, cold)` for each part of the training between two pauses (evaluation, sample,
            checkpoint), without the pauses; `cold` if a `fit` began with it, so that it has the compilation.
        held_out: One dictionary for each evaluation: `step` and the metrics.
        joins: One dictionary for each evaluation: `step`, and the `values` that the joins have learned.
        samples: One dictionary for each sample of text: `step` and `text`.
    """

    losses: list = dataclasses.field(default_factory=list)
    parts: list = dataclasses.field(default_factory=list)
    held_out: list = dataclasses.field(default_factory=list)
    joins: list = dataclasses.field(default_factory=list)
    samples: list = dataclasses.field(default_factory=list)

    @property
    def step(self):
        """Number of steps done."""
        return len(self.losses)

    def step_seconds(self):
        """Returns the median over the parts of the seconds of a step; cold parts count only where there is no other."""
        warm = [seconds / steps for steps, seconds, cold in self.parts if not cold]
        return float(np.median(warm or [seconds / steps for steps, seconds, _ in self.parts]))

    def seconds_at(self, step):
        """Returns the seconds of training until the end of `step`, with the compilation left out.

        A cold part counts as if its steps had taken the median.
        """
        usual = self.step_seconds()
        seconds = [0.0] + [usual * steps if cold else seconds for steps, seconds, cold in self.parts]
        steps = [0] + [steps for steps, _, _ in self.parts]
        return float(np.interp(step, np.cumsum(steps), np.cumsum(seconds)))

    def curve(self):
        """Returns the evaluations with the seconds of training before each."""
        return [{**row, "seconds": self.seconds_at(row["step"])} for row in self.held_out]
