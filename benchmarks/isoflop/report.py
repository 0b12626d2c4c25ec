"""What the runs of an IsoFLOP study have found: the best sizes, power laws, and plots."""

import numpy as np

from applications.results import BASELINE, around, interval
from benchmarks.isoflop import fits
from benchmarks.suite import combined as combined

TITLE = "best size of each budget by a parabola, where it is between the sizes that were trained"
CAVEAT = "One seed a size or a few, toy sizes: an exponent within another's interval does not differ from it."


def points(result):
    """Returns the points of each pair of mixers and join: lists of `(budget, weights, loss, state)`.

    Runs that diverged are left out.
    """
    found = {}
    for run in result["runs"]:
        own = run["settings"]
        if run["loss"] is not None:
            point = (own["budget"], run["weights"], run["loss"], run["state"])
            found.setdefault((own["mixers"], own["join"]), []).append(point)
    return dict(sorted(found.items(), key=lambda item: (item[0][0], item[0][1] != BASELINE, item[0][1])))


def table_cells(result):
    """Returns the header and the rows of the table, as strings: a row for each mixers, join and budget."""
    header = ["mixers, join", "budget", "runs", "best weights", "loss there", "state there", "beside add"]
    rows, plain = [], {}
    for (mixers, join), own in points(result).items():
        optima, _ = fits.fitted(own)
        for optimum in optima:
            if join == BASELINE:
                plain[mixers, optimum.budget] = optimum.loss
            baseline = plain.get((mixers, optimum.budget))
            rows.append(
                [
                    f"{mixers}, {join}",
                    f"{optimum.budget:.0e}",
                    str(sum(point[0] == optimum.budget for point in own)),
                    f"{optimum.weights:,.0f}",
                    f"{optimum.loss:.4f}",
                    f"{optimum.state:,.0f}",
                    "" if join == BASELINE or baseline is None else f"{optimum.loss - baseline:+.4f}",
                ]
            )
    return header, rows


def exponent_cells(result):
    """Returns the header and the rows of the table of exponents, as strings."""
    header, rows = ["mixers, join", "exponent", "value", "95% interval"], []
    for (mixers, join), own in points(result).items():
        _, found = fits.fitted(own)
        around = fits.intervals(own) if found else {}
        for name, value in found.items():
            low_high = "{:+.3f} to {:+.3f}".format(*around[name]) if name in around else ""
            rows.append([f"{mixers}, {join}", name, f"{value:+.3f}", low_high])
    return header, rows


def paired_cells(result):
    """Returns the header and the rows of the table of losses minus the plain residual's at the same sizes, as strings.

    Of each budget the sizes, and seeds, that both have and that are near the plain residual's best; see
    `fits.near_best`. The interval is that of the mean over them.
    """
    runs = {}
    for run in result["runs"]:
        own = run["settings"]
        if run["loss"] is not None:
            size = (own["budget"], own["width"], own["blocks"], own["seed"])
            runs.setdefault((own["mixers"], own["join"]), {})[size] = run
    header = ["mixers, join", "budget", "pairs", "mean difference", "95% interval"]
    rows, found = [], points(result)
    for mixers, join in found:
        plain = runs.get((mixers, BASELINE), {})
        near = {point[:2] for point in fits.near_best(found.get((mixers, BASELINE), []))}
        for budget in sorted({size[0] for size in plain}) if join != BASELINE else ():
            pairs = [
                runs[mixers, join][size]["loss"] - run["loss"]
                for size, run in plain.items()
                if size[0] == budget and size in runs[mixers, join] and (budget, run["weights"]) in near
            ]
            if pairs:
                mean = float(np.mean(pairs))
                cells = [str(len(pairs)), f"{mean:+.4f}", around(mean, interval(pairs))]
                rows.append([f"{mixers}, {join}", f"{budget:.0e}", *cells])
    return header, rows


def plot(result, path):
    """Plots losses over sizes with their parabolas, and the best perplexity over budget and over state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.5), layout="constrained")
    by_size, by_budget, by_state = figure.subplots(1, 3)
    budgets = sorted({run["settings"]["budget"] for run in result["runs"]})
    for index, ((mixers, join), own) in enumerate(points(result).items()):
        for budget in budgets:
            here = [point for point in own if point[0] == budget]
            if not here:
                continue
            marker = "osv^DPX*"[budgets.index(budget) % 8]
            by_size.plot(*np.array(here)[:, 1:3].T, marker, linestyle="", color=f"C{index}", markersize=4)
            here = np.array(fits.near_best(here))
            if len(set(here[:, 1])) >= 3:
                sizes = np.geomspace(here[:, 1].min(), here[:, 1].max(), 50)
                curve = np.polyval(fits.parabola(here[:, 1], here[:, 2]), np.log(sizes))
                by_size.plot(sizes, curve, color=f"C{index}", linewidth=0.8)
        optima, _ = fits.fitted(own)
        if not optima:
            continue
        perplexities = np.exp([optimum.loss for optimum in optima])
        by_budget.plot([o.budget for o in optima], perplexities, "o-", color=f"C{index}", label=f"{mixers}, {join}")
        by_state.plot([o.state for o in optima], perplexities, "o-", color=f"C{index}")
    by_size.set(xscale="log", xlabel="weights", ylabel="held-out loss", title="one curve a budget")
    by_budget.set(xlabel="budget, operations", ylabel="perplexity", title="compute-optimal")
    by_state.set(xlabel="floats of state", ylabel="perplexity", title="state-optimal")
    if by_budget.lines:
        by_budget.legend(fontsize=7)
        for axes in (by_budget, by_state):
            axes.set(xscale="log", yscale="log")
    figure.savefig(path, dpi=120)
