"""Fits of points whose laws are known, and how sure they are of them."""

import numpy as np
import pytest

from benchmarks.isoflop import fits

BUDGETS = (1e12, 1e13, 1e14)


def known(noise=0.0, state_exponent=0.5, seed=0):
    """Points with best weights `2 * C ** 0.4`, perplexity `30 * C ** -0.05` there, and state `weights ** exponent`."""
    rng = np.random.default_rng(seed)
    points = []
    for budget in BUDGETS:
        best, lowest = 2 * budget**0.4, np.log(30 * budget**-0.05)
        for factor in (0.2, 0.5, 1.1, 2.0, 4.0):
            loss = lowest + 0.03 * np.log(factor) ** 2 + noise * rng.normal()
            points.append((budget, factor * best, loss, (factor * best) ** state_exponent))
    return points


def test_exact_points_give_back_their_laws():
    optima, exponents = fits.fitted(known())
    for budget, optimum in zip(BUDGETS, optima, strict=True):
        assert optimum.budget == budget
        assert optimum.weights == pytest.approx(2 * budget**0.4)
        assert optimum.loss == pytest.approx(np.log(30 * budget**-0.05))
        assert optimum.state == pytest.approx(optimum.weights**0.5)
    assert exponents == pytest.approx(
        {
            "weights over budget": 0.4,
            "tokens over budget": 0.6,
            "perplexity over budget": -0.05,
            "perplexity over state": -0.05 / 0.4 / 0.5,
        }
    )


def test_a_vertex_worked_by_hand():
    # losses 3, 2, 3 at weights 1, e, e^2: 2 + (ln N - 1)^2
    assert fits.vertex(fits.parabola(np.exp([0, 1, 2]), [3.0, 2.0, 3.0])) == pytest.approx((np.e, 2.0))
    assert fits.vertex((-1.0, 0.0, 0.0)) is None


def test_a_best_size_outside_of_those_that_were_trained_is_none():
    larger = [point for point in known() if point[1] > 2 * point[0] ** 0.4]
    assert fits.fitted(larger) == ([], {})
    assert fits.fitted(known()[:2]) == ([], {})  # two sizes


def test_a_size_far_from_the_best_takes_no_part():
    far = [(budget, 100 * budget**0.4, 9.0, 1.0) for budget in BUDGETS]
    assert fits.fitted(known() + far) == fits.fitted(known())
    assert fits.intervals(known(0.01) + far, samples=20) == fits.intervals(known(0.01), samples=20)


def test_a_state_that_does_not_grow_has_no_law():
    assert "perplexity over state" not in fits.fitted(known(state_exponent=0.0))[1]


def test_intervals_hold_the_truth_and_narrow_with_the_noise():
    wide, narrow = (fits.intervals(known(noise), samples=200)["weights over budget"] for noise in (0.01, 0.001))
    assert wide[0] < 0.4 < wide[1]
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 3


def test_three_points_say_nothing_of_noise():
    few = [point for index, point in enumerate(known()) if index % 5 in (0, 2, 4)]
    assert fits.fitted(few)[1]
    assert fits.intervals(few) == {}
