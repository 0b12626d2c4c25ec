"""What `benchmarks.join_cost` measured: table and plot from its JSON record."""

import numpy as np

PARTS = {"forward": "forward", "both": "with gradients"}


def floor(rates, needs):
    """Returns the seconds of what `needs` names at the median `rates`, once for each round."""
    seconds = np.zeros(len(rates["copy"]["seconds"]["cpu"]))
    for kind, of in (("copy", "bytes"), ("matmul", "flops")):
        # The median: a rate is the machine's, and one round's noise is not.
        seconds += needs[of] / rates[kind]["needs"][of] * np.median(rates[kind]["seconds"]["cpu"])
    return seconds


def table_cells(result):
    """Returns the header and the rows of the table, as strings."""
    header = ["join"]
    for part in PARTS.values():
        header += [f"{part}, ms", f"{part}, ratio to the floor", f"{part}, ratio to the first"]
    rows = []
    for mode, measured in result["modes"].items():
        joins = measured["joins"]
        first = next(iter(joins.values()))
        for name, parts in joins.items():
            row = [f"{name}, {mode}"]
            for part in PARTS:
                seconds = np.array(parts[part]["seconds"]["cpu"])
                row.append(f"{1000 * np.median(seconds):.1f}")
                row.append(_quartiles(seconds / floor(measured["rates"], parts[part]["needs"])))
                row.append(_quartiles(seconds / np.array(first[part]["seconds"]["cpu"])))
            rows.append(row)
    return header, rows


def plot(result, path):
    """Plots each join's median CPU time, with its floor as a line across the bar."""
    from matplotlib.figure import Figure

    modes = result["modes"]
    figure = Figure(figsize=(5.5 * len(modes), 4), layout="constrained")
    for axes, (mode, measured) in zip(figure.subplots(1, len(modes), squeeze=False)[0], modes.items()):
        joins = measured["joins"]
        for place, (part, label) in zip((-0.2, 0.2), PARTS.items()):
            at = np.arange(len(joins)) + place
            axes.bar(at, [1000 * np.median(join[part]["seconds"]["cpu"]) for join in joins.values()], 0.4, label=label)
            floors = [1000 * np.median(floor(measured["rates"], join[part]["needs"])) for join in joins.values()]
            axes.hlines(floors, at - 0.2, at + 0.2, color="black", label="floor" if part == "both" else None)
        axes.set_xticks(range(len(joins)), list(joins))
        axes.set(ylabel="ms of CPU time", title=f"one join, {result['backend']}, {mode}")
        axes.legend()
    figure.savefig(path, dpi=120)


def _quartiles(ratios):
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"
