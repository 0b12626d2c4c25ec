"""Tables of what the runs of a suite have found."""

import numpy as np

from applications.results import deviation, spread
from benchmarks.mad.plot import plot as plot
from benchmarks.mad.scores import cells, compared_with, difference, mean_difference, mean_of_tasks, summary
from benchmarks.suite import combined as combined

TITLE = "test accuracy in percent, mean ± standard deviation over the seeds"
DIFFERENCES = "minus the accuracy of the plain residual, in points, mean ± half of the 95% interval"
CAVEAT = (
    "Four joins a model: pa has little to look back on. That these scores go with the quality of larger models was "
    "shown among families of mixers, not of joins. A difference within its interval is no proof that there is none."
)


def table_cells(result):
    """Returns the header and the rows of the table of architectures and joins, as strings."""
    rows = summary(result)
    tasks = _tasks(rows)
    header = ["architecture", "join", "weights", "seeds", *map(_title, tasks), "mean", "beside add"]
    table = []
    for row in rows:
        seeds = sorted({len(scores) for scores in row["tasks"].values()})
        of_tasks = [_mean_and_spread(row["tasks"].get(task, {}).values()) for task in tasks]
        mean = ""
        if len(row["tasks"]) == len(tasks) and seeds[0]:
            value, by_seed = mean_of_tasks(row["tasks"])
            mean = f"{100 * value:.1f}{spread(deviation(list(by_seed.values())), 1, 100)}"
        table.append(
            [
                row["architecture"],
                row["join"],
                f"{row['weights']:,}",
                " to ".join(map(str, seeds[:: max(1, len(seeds) - 1)])),
                *of_tasks,
                mean,
                _points(*mean_difference(row)),
            ]
        )
    return header, table


def difference_cells(result):
    """Returns the header and the rows of the table of what joins change in each task, as strings.

    Differences whose interval leaves zero out are bold.
    """
    rows = [row for row in summary(result) if row["plain"]]
    tasks = _tasks(rows)
    header = ["architecture", "join", *map(_title, tasks), "all"]
    table = []
    for row in rows:
        found = [difference(row["tasks"][task], row["plain"][task]) if task in row["tasks"] else None for task in tasks]
        of_tasks = [_points(*each, bold=True) if each else "" for each in found]
        table.append([row["architecture"], row["join"], *of_tasks, _points(*mean_difference(row), bold=True)])
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
                _points(*difference(row["scores"], found.get((row["task"], row["label"], plain), {}))),
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


def _tasks(rows):
    return list(dict.fromkeys(task for row in rows for task in row["tasks"]))


def _title(task):
    return task.replace("-", " ")


def _points(mean, half, bold=False):
    if mean is None:
        return ""
    mark = "**" if bold and half is not None and abs(mean) > half else ""
    return f"{mark}{100 * mean:+.1f}{mark}{spread(half, 1, 100)}"


def _mean_and_spread(values):
    values = list(values)
    return f"{100 * np.mean(values):.1f}{spread(deviation(values), 1, 100)}" if values else ""
