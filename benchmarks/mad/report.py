"""What the runs of a suite have found: scores by task, beside the plain residual, and plots."""

import collections

import numpy as np

from applications.joins import JOINS
from applications.results import BASELINE, deviation, interval, spread
from benchmarks.mad.architectures import ARCHITECTURES, CONTROLS
from benchmarks.suite import combined as combined

TITLE = "test accuracy in percent, mean ± standard deviation over the seeds; differences with 95% intervals"
MARKERS = dict(zip(JOINS, "osv^DPX*<>hp"))
CAVEAT = (
    "Four joins a model: pa has little to look back on. That these scores go with the quality of larger models was "
    "shown among families of mixers, not of joins. A difference within its interval is no proof that there is none."
)


def cells(result):
    """Returns one dictionary a setting, architecture and join.

    `scores` are the test's micro accuracies by seed, at the point of the grid of rates and decays that is best by the
    mean accuracy on the examples to validate with, over the seeds that all points have. `best_of_grid` is the
    published score, mean of the seeds: the highest macro accuracy of the grid, chosen on the test itself. `points` says
    how many points the grid has.
    """
    groups = collections.defaultdict(lambda: collections.defaultdict(dict))
    for run in result["runs"]:
        own = run["settings"]
        key = (own["task"], own["setting"]["label"], own["architecture"], own["join"])
        groups[key][own["learning_rate"], own["weight_decay"]][own["seed"]] = run
    rows = []
    for (task, label, architecture, join), grid in groups.items():
        # A point of the grid at which a run diverged is none to choose.
        grid = {point: runs for point, runs in grid.items() if all(run["test"] for run in runs.values())}
        if not grid:
            continue
        seeds = sorted(set.intersection(*(set(runs) for runs in grid.values())))
        if not seeds:
            continue
        point = max(grid, key=lambda key: np.mean([grid[key][seed]["validation"]["micro"] for seed in seeds]))
        chosen = [grid[point][seed] for seed in seeds]
        best = [max(runs[seed]["test"]["macro_per_batch"] for runs in grid.values()) for seed in seeds]
        rows.append(
            {
                "task": task,
                "label": label,
                "architecture": architecture,
                "join": join,
                "weights": chosen[0]["weights"],
                "state": chosen[0]["state"],
                "learning_rate": point[0],
                "weight_decay": point[1],
                "points": len(grid),
                "scores": {seed: run["test"]["micro"] for seed, run in zip(seeds, chosen)},
                "best_of_grid": float(np.mean(best)),
                "solved_at": [run["solved_at"] for run in chosen],
            }
        )
    return sorted(rows, key=_order)


def compared_with(architecture, join):
    """Returns the architecture and join that another is set beside.

    That is the plain residual of the same architecture, or of the one that a wider one is the control of; of `None` for
    the plain residual of any other.
    """
    return (architecture if join != BASELINE else CONTROLS.get(architecture)), BASELINE


def difference(values, baseline):
    """Returns the mean difference of what two dictionaries have for each seed, and half of its 95% interval.

    The mean is `None` if they have no seed in common; see `applications.results.interval`.
    """
    pairs = [values[seed] - baseline[seed] for seed in values if seed in baseline]
    return (float(np.mean(pairs)) if pairs else None), interval(pairs)


def summary(result):
    """Returns one dictionary an architecture and join: scores of tasks (means over settings) and their mean, by seed.

    The mean is over the tasks that the plain residual it is set beside has too, in the settings that both have;
    `plain` is that of the plain residual over the same. See `compared_with`.
    """
    found = collections.defaultdict(dict)
    for row in cells(result):
        found[row["architecture"], row["join"]][row["task"], row["label"]] = row
    rows = []
    for (architecture, join), settings in found.items():
        plain = found.get(compared_with(architecture, join))
        common = [key for key in settings if plain is None or key in plain]
        seeds = set.intersection(*(set(settings[key]["scores"]) for key in common)) if common else set()
        tasks = {
            task: {seed: _mean(settings, common, task, seed) for seed in sorted(seeds)}
            for task in dict.fromkeys(task for task, _ in common)
        }
        both = [seed for seed in sorted(seeds) if plain and all(seed in plain[key]["scores"] for key in common)]
        rows.append(
            {
                "architecture": architecture,
                "join": join,
                "weights": max(row["weights"] for row in settings.values()),
                "state": max(row["state"] for row in settings.values()),
                "tasks": tasks,
                "mean": {seed: _mean_of_tasks(settings, common, seed) for seed in sorted(seeds)},
                "plain": {seed: _mean_of_tasks(plain, common, seed) for seed in both},
            }
        )
    return rows


def table_cells(result):
    """Returns the header and the rows of the table of architectures and joins, as strings."""
    rows = summary(result)
    tasks = list(dict.fromkeys(task for row in rows for task in row["tasks"]))
    header = [
        "architecture",
        "join",
        "weights",
        "seeds",
        *(task.replace("-", " ") for task in tasks),
        "mean",
        "beside add",
    ]
    table = []
    for row in rows:
        table.append(
            [
                row["architecture"],
                row["join"],
                f"{row['weights']:,}",
                str(len(row["mean"])),
                *(_mean_and_spread(row["tasks"].get(task, {}).values()) for task in tasks),
                _mean_and_spread(row["mean"].values()) if len(row["tasks"]) == len(tasks) else "",
                _beside(row["mean"], row["plain"]),
            ]
        )
    return header, table


def detail_cells(result):
    """Returns the header and the rows of the table of all settings, as strings."""
    rows = cells(result)
    found = {(r["task"], r["label"], (r["architecture"], r["join"])): r["scores"] for r in rows}
    header = [
        "setting",
        "architecture",
        "join",
        "rate",
        "decay",
        "score",
        "beside add",
        "95% after",
        "best of grid, macro",
    ]
    table = []
    for row in rows:
        plain = compared_with(row["architecture"], row["join"])
        table.append(
            [
                f"{row['task']} {row['label']}",
                row["architecture"],
                row["join"],
                f"{row['learning_rate']:g}",
                f"{row['weight_decay']:g}",
                _mean_and_spread(row["scores"].values()),
                _beside(row["scores"], found.get((row["task"], row["label"], plain), {})),
                steps_to_solve(row["solved_at"]),
                f"{100 * row['best_of_grid']:.1f}",
            ]
        )
    return header, table


def steps_to_solve(solved_at):
    """Returns the median of the steps by which runs had solved a task, and how many never did.

    A run that never did counts as later than all others.
    """
    never = sum(step is None for step in solved_at)
    ordered = sorted(float("inf") if step is None else step for step in solved_at)
    median = ordered[(len(ordered) - 1) // 2]
    words = "never" if median == float("inf") else f"{median:,.0f} steps"
    return words if not never or never == len(ordered) else f"{words}, {never} of {len(ordered)} never"


def plot(result, path):
    """Plots the scores of every setting, and the mean score against weights and state."""
    from matplotlib.figure import Figure

    rows = cells(result)
    settings = list(dict.fromkeys((row["task"], row["label"]) for row in rows))
    kinds = list(dict.fromkeys((row["architecture"], row["join"]) for row in rows))
    architectures = list(dict.fromkeys(architecture for architecture, _ in kinds))

    figure = Figure(figsize=(17, 5), layout="constrained")
    by_setting, by_weights, by_state = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    for index, kind in enumerate(kinds):
        own = {
            (r["task"], r["label"]): list(r["scores"].values()) for r in rows if (r["architecture"], r["join"]) == kind
        }
        offset = 0.7 * (index + 0.5) / len(kinds) - 0.35
        places = [settings.index(key) + offset for key in own]
        by_setting.errorbar(
            places,
            [100 * np.mean(values) for values in own.values()],
            [100 * (deviation(values) or 0) for values in own.values()],
            linestyle="",
            label=" ".join(kind),
            markersize=4,
            **_style(kind[1], architectures.index(kind[0])),
        )
    by_setting.set_xticks(range(len(settings)), ["\n".join(key) for key in settings], rotation=90, fontsize=7)
    by_setting.set(ylabel="test accuracy, %", title="settings, mean and standard deviation of the seeds")
    figure.legend(*by_setting.get_legend_handles_labels(), fontsize=6, loc="outside right center")
    means = summary(result)
    whole = [row for row in means if len(row["tasks"]) == max(len(other["tasks"]) for other in means)]
    for axes, key in ((by_weights, "weights"), (by_state, "state")):
        for row in whole:
            axes.plot(
                row[key],
                100 * np.mean(list(row["mean"].values())),
                linestyle="",
                **_style(row["join"], architectures.index(row["architecture"])),
            )
        axes.set(xlabel={"weights": "weights", "state": "floats of state"}[key], title="mean of the tasks, %")
        axes.locator_params(axis="x", nbins=4)
    figure.savefig(path, dpi=120)


def _style(join, color):
    word, *changes = join.split("@")
    hollow = {"markerfacecolor": "none"} if changes else {}
    return {"marker": MARKERS[word], "color": f"C{color}", **hollow}


def _mean(settings, common, task, seed):
    return float(np.mean([settings[key]["scores"][seed] for key in common if key[0] == task]))


def _mean_of_tasks(settings, common, seed):
    tasks = dict.fromkeys(task for task, _ in common)
    return float(np.mean([_mean(settings, common, task, seed) for task in tasks]))


def _beside(values, plain):
    mean, half = difference(values, plain)
    return "" if mean is None else f"{100 * mean:+.1f}{spread(half, 1, 100)}"


def _mean_and_spread(values):
    values = list(values)
    return f"{100 * np.mean(values):.1f}{spread(deviation(values), 1, 100)}" if values else ""


def _order(row):
    names = list(ARCHITECTURES)
    place = names.index(row["architecture"]) if row["architecture"] in names else len(names)
    word, *changes = row["join"].split("@")
    of_join = JOINS.index(word), changes
    return row["task"], row["label"] != "baseline", row["label"], place, row["architecture"], of_join
