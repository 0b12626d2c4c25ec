"""What `benchmarks.step_time` measured: table and plot from its JSON record."""

import statistics

from benchmarks.timing import ratios

SECONDS = ("s", "{:.3f}".format)


def table_cells(result, units=None):
    """Returns the header and the rows of the table, as strings; of CPU time, too, if that is what computed.

    Args:
        result: The record.
        units: Dictionary of modes to pairs of a unit and a function that writes a median of seconds in it.
    """
    variants = result["variants"]
    reference = next(iter(variants.values()))
    header = ["variant", "weights"]
    rows = [[name, f"{variant['weights']:,}"] for name, variant in variants.items()]
    clocks = {"wall": "time"} | ({"cpu": "CPU time"} if result["device"].startswith("CPU") else {})
    for mode in reference["seconds"]:
        unit, write = (units or {}).get(mode, SECONDS)
        header.append(f"{mode}, {unit}")
        for row, variant in zip(rows, variants.values()):
            row.append(write(statistics.median(variant["seconds"][mode]["wall"])))
        for clock, words in clocks.items():
            header.append(f"{mode}, ratio of {words}")
            seconds = {name: variant["seconds"][mode][clock] for name, variant in variants.items()}
            for row, (low, middle, high) in zip(rows, ratios(seconds).values()):
                row.append(f"{middle:.3f} ({low:.3f}-{high:.3f})")
        memory = [variant.get("memory", {}).get(mode) for variant in variants.values()]
        if all(memory):
            header += [f"{mode}, memory of a step, GB", f"{mode}, ratio of memory"]
            for row, of_variant in zip(rows, memory):
                row += [f"{of_variant / 1e9:.2f}", f"{of_variant / memory[0]:.3f}"]
    return header, rows


def plot(result, path):
    """Plots, for each mode, the ratios of all rounds to the first variant."""
    import numpy as np
    from matplotlib.figure import Figure

    variants = result["variants"]
    modes = list(next(iter(variants.values()))["seconds"])
    figure = Figure(figsize=(5.5 * len(modes), 4), layout="constrained")
    for axes, mode in zip(figure.subplots(1, len(modes), squeeze=False)[0], modes):
        first, *others = [variant["seconds"][mode]["wall"] for variant in variants.values()]
        names = [name.replace("@", "\n") for name in list(variants)[1:]]
        axes.boxplot([np.divide(seconds, first) for seconds in others], tick_labels=names)
        axes.axhline(1.0, color="gray", linewidth=0.5)
        axes.set(ylabel=f"beside {next(iter(variants))}", title=f"{mode}, {result['backend']}")
        if max(map(len, variants)) > 12:
            axes.tick_params(axis="x", labelrotation=90, labelsize=7)
    figure.savefig(path, dpi=120)
