"""Fits of scaling: a parabola of the loss for each budget, power laws through the vertices, and how sure they are."""

import dataclasses

import numpy as np

INTERVAL = (2.5, 97.5)
NEAR = 8


@dataclasses.dataclass(frozen=True)
class Optimum:
    """What is best at one budget.

    Attributes:
        budget: Operations.
        weights: Number of weights at the parabola's vertex.
        loss: Loss there.
        state: Floats of state there.
    """

    budget: float
    weights: float
    loss: float
    state: float


def near_best(points):
    """Returns the points of up to `NEAR` times the weights of the best of their budget, or as many times fewer.

    Losses are on a parabola there alone: a model far too large for its budget is one that was hardly trained.
    """
    best = {}
    for budget, weights, loss, _ in points:
        best[budget] = min(best.get(budget, (np.inf, 0)), (loss, weights))
    return [point for point in points if 1 / NEAR <= point[1] / best[point[0]][1] <= NEAR]


def parabola(weights, losses):
    """Returns the least squares coefficients `(c2, c1, c0)` of the losses over the logarithm of the weights."""
    return np.polyfit(np.log(weights), losses, 2)


def vertex(coefficients):
    """Returns the number of weights where the parabola is lowest and the loss there; `None` if it opens downwards."""
    curvature, slope, _ = coefficients
    if curvature <= 0:
        return None
    log_weights = -slope / (2 * curvature)
    return float(np.exp(log_weights)), float(np.polyval(coefficients, log_weights))


def optimum(budget, weights, losses, states):
    """Returns the `Optimum` of one budget, or `None` if the best size is not between those that were trained."""
    found = vertex(parabola(weights, losses)) if len(set(weights)) >= 3 else None
    if found is None or not min(weights) < found[0] < max(weights):
        return None
    best, loss = found
    order = np.argsort(weights)
    state = np.exp(np.interp(np.log(best), np.log(weights)[order], np.log(np.maximum(states, 1))[order]))
    return Optimum(budget, best, loss, float(state))


def power_law(x, y):
    """Returns `(exponent, factor)` of `y = factor * x ** exponent`, by least squares of the logarithms."""
    exponent, log_factor = np.polyfit(np.log(x), np.log(y), 1)
    return float(exponent), float(np.exp(log_factor))


def exponents(optima):
    """Returns the exponents of the power laws through two or more optima, by name; empty with fewer.

    `weights` and `tokens` of the best model over the budget (tokens go as budget by weights), its perplexity over the
    budget and over its state.
    """
    if len(optima) < 2:
        return {}
    budgets = [optimum.budget for optimum in optima]
    weights = [optimum.weights for optimum in optima]
    perplexities = np.exp([optimum.loss for optimum in optima])
    states = [optimum.state for optimum in optima]
    found = {
        "weights over budget": power_law(budgets, weights)[0],
        "tokens over budget": power_law(budgets, np.divide(budgets, weights))[0],
        "perplexity over budget": power_law(budgets, perplexities)[0],
    }
    if len(set(states)) > 1:
        found["perplexity over state"] = power_law(states, perplexities)[0]
    return found


def fitted(points):
    """Returns the optima and the exponents of the points that are `near_best`.

    Args:
        points: List of tuples `(budget, weights, loss, state)`.

    Returns:
        The list of `Optimum`, by budget, and the dictionary of `exponents`.
    """
    optima, points = [], near_best(points)
    for budget in sorted({point[0] for point in points}):
        weights, losses, states = np.array([point[1:] for point in points if point[0] == budget], "float64").T
        found = optimum(budget, weights, losses, states)
        if found is not None:
            optima.append(found)
    return optima, exponents(optima)


def intervals(points, samples=1000, seed=0):
    """Returns 95% intervals of the exponents, by name: the parabolas' residuals are drawn again, with replacement.

    Empty if a parabola goes through all its points, so that there are no residuals. Draws whose best size is outside
    the sizes that were trained count with the budgets that are left.

    Args:
        points: See `fitted`.
        samples: How often to draw.
        seed: Of the draws.
    """
    points = np.array(near_best(points), "float64")
    predicted, residuals = np.empty(len(points)), np.empty(len(points))
    for budget in np.unique(points[:, 0]):
        own = points[:, 0] == budget
        if own.sum() <= 3:
            return {}
        coefficients = parabola(points[own, 1], points[own, 2])
        predicted[own] = np.polyval(coefficients, np.log(points[own, 1]))
        # Least squares makes residuals small by as much as it has coefficients.
        residuals[own] = (points[own, 2] - predicted[own]) * np.sqrt(own.sum() / (own.sum() - 3))
    rng = np.random.default_rng(seed)
    drawn = {}
    for _ in range(samples):
        again = points.copy()
        again[:, 2] = predicted + rng.choice(residuals, len(points))
        for name, value in fitted(list(map(tuple, again)))[1].items():
            drawn.setdefault(name, []).append(value)
    return {name: tuple(np.percentile(values, INTERVAL).tolist()) for name, values in drawn.items()}
