"""What the runs of a suite have found: scores of settings and tasks, beside the plain residual's."""

import collections

import numpy as np

from applications.joins import JOINS
from applications.results import BASELINE, interval
from benchmarks.mad.architectures import ARCHITECTURES, CONTROLS


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

    def order(row):
        what, _, value = row["label"].partition("=")
        of_setting = row["label"] != "baseline", what, float(value or 0)
        return row["task"], of_setting, place(row["architecture"], row["join"])

    return sorted(rows, key=order)


def place(architecture, join):
    """Returns what puts architectures and joins in order: known ones as they are listed, then others by name."""
    names = list(ARCHITECTURES)
    word, *changes = join.split("@")
    of_architecture = names.index(architecture) if architecture in names else len(names)
    return of_architecture, architecture, JOINS.index(word) if word in JOINS else len(JOINS), word, changes


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
    """Returns one dictionary an architecture and join: in `tasks` scores by task and seed, means over settings.

    They are of the tasks and settings that the plain residual it is set beside has too, whose scores are in `plain`;
    see `compared_with`. Tasks may have been run on different seeds.
    """
    found = collections.defaultdict(dict)
    for row in cells(result):
        found[row["architecture"], row["join"]][row["task"], row["label"]] = row
    rows = []
    for (architecture, join), settings in sorted(found.items(), key=lambda item: place(*item[0])):
        plain = found.get(compared_with(architecture, join))
        common = [key for key in settings if plain is None or key in plain]
        tasks = list(dict.fromkeys(task for task, _ in common))
        rows.append(
            {
                "architecture": architecture,
                "join": join,
                "weights": max(row["weights"] for row in settings.values()),
                "state": max(row["state"] for row in settings.values()),
                "tasks": {task: _means(settings, common, task) for task in tasks},
                "plain": {task: _means(plain, common, task) for task in tasks} if plain else {},
            }
        )
    return rows


def mean_of_tasks(tasks):
    """Returns the mean over tasks of their means over seeds, and a dictionary of the mean of each seed.

    The dictionary is empty unless all tasks have the same seeds.

    Args:
        tasks: Dictionary of tasks to dictionaries of seeds to scores.
    """
    seeds = {tuple(scores) for scores in tasks.values()}
    by_seed = {}
    if len(seeds) == 1:
        by_seed = {seed: float(np.mean([scores[seed] for scores in tasks.values()])) for seed in seeds.pop()}
    return float(np.mean([np.mean(list(scores.values())) for scores in tasks.values()])), by_seed


def mean_difference(row):
    """Returns the mean over tasks of the differences of a row of `summary`, and half of its 95% interval.

    The mean is `None` without a plain residual to compare with, the interval unless all tasks have the same seeds.
    """
    found = {
        task: {seed: score - row["plain"][task][seed] for seed, score in scores.items() if seed in row["plain"][task]}
        for task, scores in (row["tasks"] if row["plain"] else {}).items()
    }
    if not found or not all(found.values()):
        return None, None
    mean, by_seed = mean_of_tasks(found)
    return mean, interval(list(by_seed.values()))


def _means(settings, common, task):
    """Returns the mean over the settings of a task that are in `common`, by seed, for the seeds that all have."""
    own = [settings[key]["scores"] for key in common if key[0] == task]
    seeds = sorted(set.intersection(*(set(scores) for scores in own)))
    return {seed: float(np.mean([scores[seed] for scores in own])) for seed in seeds}
