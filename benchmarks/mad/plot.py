"""Plots of what the runs of a suite have found."""

import itertools

import numpy as np

from applications.joins import JOINS
from applications.results import deviation
from benchmarks.mad.scores import cells, compared_with, difference, mean_of_tasks, place, summary

MARKERS = dict(zip(JOINS, "osv^DPX*<>hp"))
OTHER = "d"


def plot(result, path):
    """Plots scores, what joins change and when tasks are solved, by setting, and mean scores over weights and state."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = cells(result)
    settings = list(dict.fromkeys((row["task"], row["label"]) for row in rows))
    kinds = sorted({(row["architecture"], row["join"]) for row in rows}, key=lambda kind: place(*kind))
    architectures = list(dict.fromkeys(architecture for architecture, _ in kinds))
    joins = sorted({join for _, join in kinds}, key=lambda join: place("", join))

    def style(architecture, join):
        word, *changes = join.split("@")
        hollow = {"markerfacecolor": "none"} if changes else {}
        color = f"C{architectures.index(architecture)}"
        return {
            "marker": MARKERS.get(word, OTHER),
            "color": color,
            "linestyle": "",
            "markersize": 5,
            "elinewidth": 0.7,
            **hollow,
        }

    figure = Figure(figsize=(18, 10), layout="constrained")
    (by_score, by_weights), (by_difference, by_state), (by_steps, key) = figure.subplots(3, 2, width_ratios=(3, 1))
    found = {(row["task"], row["label"], row["architecture"], row["join"]): row for row in rows}
    for (start, setting), (index, kind) in itertools.product(enumerate(settings), enumerate(kinds)):
        row = found.get((*setting, *kind))
        if row is None:
            continue
        x = start + 0.8 * (index + 0.5) / len(kinds) - 0.4
        scores = list(row["scores"].values())
        by_score.errorbar(x, 100 * np.mean(scores), 100 * (deviation(scores) or 0), **style(*kind))
        plain = found.get((*setting, *compared_with(*kind)))
        mean, half = difference(row["scores"], plain["scores"] if plain else {})
        if mean is not None:
            by_difference.errorbar(x, 100 * mean, 100 * (half or 0), **style(*kind))
        solved = [step for step in row["solved_at"] if step is not None]
        by_steps.errorbar([x] * len(solved), solved, **style(*kind))
    by_score.set(ylabel="%", title="test accuracy, mean and standard deviation of the seeds")
    by_difference.axhline(0, color="black", linewidth=0.5)
    by_difference.set_yscale("symlog", linthresh=1)
    by_difference.margins(y=0.1)
    by_difference.set(ylabel="points", title="minus that of the plain residual, and 95% interval where seeds allow")
    by_steps.set(ylabel="steps", title="steps to 95% right on examples to validate with, of each run that had it")
    for axes in (by_score, by_difference, by_steps):
        axes.set_xlim(-0.5, len(settings) - 0.5)
        axes.set_xticks(range(len(settings)), ["\n".join(setting) for setting in settings], fontsize=8)
        for start in range(1, len(settings)):
            axes.axvline(start - 0.5, color="lightgray", linewidth=0.7)
    means = summary(result)
    whole = [row for row in means if len(row["tasks"]) == max(len(other["tasks"]) for other in means)]
    for axes, quantity, words in ((by_weights, "weights", "weights"), (by_state, "state", "floats of state")):
        for row in whole:
            mean = 100 * mean_of_tasks(row["tasks"])[0]
            axes.errorbar(row[quantity], mean, **style(row["architecture"], row["join"]))
        axes.set(xlabel=words, title="mean of the tasks, %")
        axes.locator_params(axis="x", nbins=4)
    key.axis("off")
    handles = [Line2D([], [], color=f"C{i}", label=name) for i, name in enumerate(architectures)]
    shapes = [{**style(architectures[0], join), "color": "black"} for join in joins]
    for shape in shapes:
        del shape["elinewidth"]
    handles += [Line2D([], [], label=join, **shape) for join, shape in zip(joins, shapes)]
    key.legend(handles=handles, loc="center", fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
