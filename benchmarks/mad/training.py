"""One run of the benchmark: a model of one architecture and join is trained on one setting, and scored."""

import dataclasses
import itertools
import time

import keras
import numpy as np
from keras import ops

from benchmarks.mad import accounting, metric
from benchmarks.mad.metric import BATCH_SIZE
from benchmarks.mad.models import build
from benchmarks.mad.tasks.task import IGNORE
from keras_laurel import exclude_from_weight_decay

LAST_RATE = 1e-6
NUM_VALIDATION = 640
NUM_CHECKS = 20  # how often a run looks at the examples to validate with
SOLVED = 0.95
DONE = 0.999  # a run that gets beyond it, on the same examples, ends


@dataclasses.dataclass(frozen=True)
class Run:
    """All that decides a run besides its setting. Runs that differ in the join alone see the same batches.

    Attributes:
        architecture: See `architectures.mixers_of`.
        join: See `applications.joins.join_arguments`.
        learning_rate: The highest.
        weight_decay: Of AdamW, on all weights but LAuReL's.
        seed: Of the examples, their order and the first weights.
        schedule: `"cosine"`, as the paper says, or `"constant"`, as its code did.
        rank: Of the low-rank maps, unless `join` names another.
        num_activations: Number of states that PA weighs, unless `join` names another.
        plugin: File that has the architecture's mixers or the join; see `load_plugin`.
        plugin_version: What `load_plugin` returned of it.
    """

    architecture: str
    join: str
    learning_rate: float
    weight_decay: float
    seed: int
    schedule: str = "cosine"
    rank: int = 12
    num_activations: int = 3
    plugin: str | None = None
    plugin_version: str | None = None


class Batches(keras.utils.PyDataset):
    """Batches of examples, drawn anew in each pass; the last of a pass may be smaller.

    Args:
        examples: `Examples`.
        batch_size: Number of examples of a batch.
        seed: Integer.
        steps: Range of the steps whose batches these are.
    """

    def __init__(self, examples, batch_size, seed, steps):
        super().__init__()
        self.examples, self.batch_size, self.seed, self.steps = examples, batch_size, seed, steps
        self.steps_per_pass = -(-len(examples.inputs) // batch_size)
        self._pass, self._order = -1, np.arange(0)

    def __len__(self):
        return len(self.steps)

    def __getitem__(self, index):
        number, step = divmod(self.steps[index], self.steps_per_pass)
        if self._pass != number:
            rng = np.random.default_rng((self.seed, number))
            self._pass, self._order = number, rng.permutation(len(self.examples.inputs))
        chosen = self._order[step * self.batch_size : (step + 1) * self.batch_size]
        return self.examples.inputs[chosen], self.examples.targets[chosen]


def cross_entropy(targets, logits):
    """Returns the mean cross-entropy in nats over the scored positions of a batch."""
    targets = ops.cast(targets, "int32")
    scored = targets != IGNORE
    losses = keras.losses.sparse_categorical_crossentropy(ops.where(scored, targets, 0), logits, from_logits=True)
    scored = ops.cast(scored, losses.dtype)
    return ops.sum(losses * scored) / ops.maximum(ops.sum(scored), 1)


def compiled(model, run, num_steps):
    """Returns `model`, compiled to be trained for `num_steps`."""
    rate = run.learning_rate
    if run.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, num_steps, alpha=min(1.0, LAST_RATE / rate))
    optimizer = keras.optimizers.AdamW(rate, weight_decay=run.weight_decay, beta_2=0.98, epsilon=1e-8)
    if run.weight_decay:
        exclude_from_weight_decay(optimizer, model)
    model.compile(optimizer, cross_entropy)
    return model


def train(setting, run, on_check=lambda step, accuracy: None):
    """Trains and scores one model.

    Args:
        setting: A `settings.Setting`.
        run: A `Run`.
        on_check: Called with the step and the micro accuracy on the examples to validate with, as training goes on.

    Returns:
        A dictionary fit for JSON: the numbers of weights, of floats of state and of
        operations of a sequence's forward pass; the scores of the validation and of
        the test after the last step; the step by which the validation's accuracy was first `SOLVED`, or `None`; its
        curve, which ends early where the accuracy is beyond `DONE`, the training loss between its points, and seconds.
        A run whose loss is no longer finite ends there: `diverged_at` says after how many steps, there are no scores.
    """
    start = time.perf_counter()
    data = setting.task.dataset(run.seed, NUM_VALIDATION)
    model = build(setting.task, run.architecture, run.join, run.seed, run.rank, run.num_activations)
    compiled(model, run, setting.num_steps)
    curve, losses, solved_at, diverged_at, validation = [], [], None, None, None
    bounds = np.unique(np.linspace(0, setting.num_steps, NUM_CHECKS + 1).astype(int)).tolist()
    for first, last in itertools.pairwise(bounds):
        batches = Batches(data.train, setting.batch_size, run.seed, range(first, last))
        loss = model.fit(batches, shuffle=False, verbose=0).history["loss"][0]
        if not np.isfinite(loss):
            diverged_at, validation = last, None
            break
        losses.append(float(loss))
        validation = scores(model, data.validation)
        curve.append([last, validation["micro"]])
        if solved_at is None and validation["micro"] >= SOLVED:
            solved_at = last
        on_check(last, validation["micro"])
        if validation["micro"] > DONE:
            break
    return {
        "weights": model.count_params(),
        "state": accounting.state_size(model, setting.task.input_length),
        "flops": accounting.flops(model, setting.task.input_length),
        "validation": validation,
        "test": None if diverged_at else scores(model, data.test),
        "solved_at": solved_at,
        "diverged_at": diverged_at,
        "curve": curve,
        "losses": losses,
        "seconds": time.perf_counter() - start,
    }


def scores(model, examples):
    """Returns both accuracies, and the mean loss in nats over the scored positions."""
    predictions, losses = [], []
    for start in range(0, len(examples.inputs), BATCH_SIZE):
        targets = examples.targets[start : start + BATCH_SIZE]
        logits = model.predict_on_batch(examples.inputs[start : start + BATCH_SIZE]).astype("float64")
        predictions.append(np.argmax(logits, axis=-1))
        target = np.take_along_axis(logits, np.where(targets == IGNORE, 0, targets)[..., None], axis=-1)[..., 0]
        most = np.max(logits, axis=-1)
        losses.append(np.log(np.sum(np.exp(logits - most[..., None]), axis=-1)) + most - target)
    predictions, losses = np.concatenate(predictions), np.concatenate(losses)
    return {
        "micro": metric.micro(predictions, examples.targets),
        "macro_per_batch": metric.macro_per_batch(predictions, examples.targets),
        "loss": float(np.mean(losses[examples.targets != IGNORE])),
    }
