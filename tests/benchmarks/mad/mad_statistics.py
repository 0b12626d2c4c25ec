"""How the tests of the tasks compare samples with what a generator's definition implies."""

import numpy as np
from scipy.stats import chisquare

from benchmarks.mad.tasks import IGNORE


def scored(targets):
    """Returns the number of scored positions of each sequence."""
    return np.sum(targets != IGNORE, axis=1)


def assert_mean(values, expected, error=0.0):
    """Fails if the mean is 4 or more standard errors off; `error` is that of `expected`."""
    own = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) <= 4 * np.hypot(own, error) + 1e-9


def assert_uniform(samples, num_values, first=0):
    """Fails if the samples are not integers uniform over `first, ..., first + num_values - 1`."""
    samples = np.ravel(samples) - first
    assert samples.min() >= 0
    assert samples.max() < num_values
    assert chisquare(np.bincount(samples, minlength=num_values)).pvalue > 1e-3


def lines(examples):
    """Returns inputs and targets of each sequence as text, with a dot where nothing is scored."""
    return [
        " ".join(map(str, inputs)) + " > " + " ".join("." if target == IGNORE else str(target) for target in targets)
        for inputs, targets in zip(examples.inputs.tolist(), examples.targets.tolist())
    ]
