"""What `benchmarks.mixers_speed` measured: table and plot from its JSON record."""

import statistics

from benchmarks.timing import ratios


def table_cells(result):
    """Returns the header and the rows of the table, as strings; ratios are to the first of a group."""
    rows = []
    for group, names in result["groups"].items():
        for name, (low, middle, high) in ratios({name: clocks["cpu"] for name, clocks in names.items()}).items():
            milliseconds = 1000 * statistics.median(names[name]["cpu"])
            rows.append([group, name, f"{milliseconds:.1f}", f"{middle:.2f} ({low:.2f}-{high:.2f})"])
    return ["group", "what", "CPU time of a step, ms", "ratio"], rows


def plot(result, path):
    """Plots the CPU time of the steps of each group, medians and quartiles."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(result["groups"]), 4), layout="constrained")
    for axes, (group, names) in zip(
        figure.subplots(1, len(result["groups"]), squeeze=False)[0], result["groups"].items()
    ):
        quartiles = 1000 * np.quantile([clocks["cpu"] for clocks in names.values()], (0.25, 0.5, 0.75), axis=1)
        low, middle, high = quartiles
        axes.barh(list(names), middle, xerr=(middle - low, high - middle))
        axes.set(xlabel="CPU time of a training step, ms", title=f"{group}, {result['backend']}")
        axes.invert_yaxis()
    figure.savefig(path, dpi=120)
