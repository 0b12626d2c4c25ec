"""The scores of a test: accuracy and perplexity over the positions whose target is not ignored.

The published figures are means over batches, and their accuracy is one over classes. A few predictions of a token that
is no target at all lower it by much, so it is for comparison with them alone; decisions go by `micro`.
"""

import numpy as np

from benchmarks.mad.tasks.task import IGNORE, expect

BATCH_SIZE = 128  # of the published runs, in training and in the test


def micro(predictions, targets):
    """Returns the fraction of the scored positions that are right.

    Args:
        predictions: Integer array, the most likely token at each position.
        targets: Integer array of the same shape; `IGNORE` where nothing is scored.
    """
    scored = _scored(predictions, targets)
    return float(np.mean(predictions[scored] == targets[scored]))


def macro(predictions, targets):
    """Returns the mean over classes of the fraction of a class's targets that are right, in one batch.

    A class that is predicted at a scored position and is no target counts as 0; one that is neither does not count.

    Args:
        predictions: As in `micro`.
        targets: As in `micro`.
    """
    scored = _scored(predictions, targets)
    predictions, targets = predictions[scored], targets[scored]
    num_classes = int(max(predictions.max(), targets.max())) + 1
    total = np.bincount(targets, minlength=num_classes)
    right = np.bincount(targets[predictions == targets], minlength=num_classes)
    counts = (total > 0) | (np.bincount(predictions, minlength=num_classes) > 0)
    return float(np.mean(right[counts] / np.maximum(total[counts], 1)))


def macro_per_batch(predictions, targets, batch_size=BATCH_SIZE):
    """Returns the published accuracy: the mean of `macro` over batches, in order, the last perhaps smaller.

    Args:
        predictions: As in `micro`, of shape `(num_examples, length)`.
        targets: As in `micro`, of that shape.
        batch_size: Number of examples of a batch.
    """
    return _per_batch(macro, predictions, targets, batch_size)


def perplexity(losses, targets):
    """Returns the exponential of the mean loss over the scored positions.

    Args:
        losses: Float array, the cross-entropy in nats at each position; what it is at others does not matter.
        targets: As in `micro`, of the same shape.
    """
    return float(np.exp(np.mean(losses[_scored(losses, targets)], dtype="float64")))


def perplexity_per_batch(losses, targets, batch_size=BATCH_SIZE):
    """Returns the published perplexity: the mean of `perplexity` over batches.

    Args:
        losses: As in `perplexity`, of shape `(num_examples, length)`.
        targets: As in `micro`, of that shape.
        batch_size: Number of examples of a batch.
    """
    return _per_batch(perplexity, losses, targets, batch_size)


def _per_batch(score, values, targets, batch_size):
    _scored(values, targets)
    starts = range(0, len(targets), batch_size)
    return float(np.mean([score(values[i : i + batch_size], targets[i : i + batch_size]) for i in starts]))


def _scored(values, targets):
    expect(values.shape == targets.shape, "arrays of one shape", values=values.shape, targets=targets.shape)
    scored = targets != IGNORE
    expect(scored.any(), "targets with a scored position", shape=targets.shape)
    return scored
