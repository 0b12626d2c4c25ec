"""What `benchmarks.join_cost` measured: table and plot from its JSON record."""

import numpy as np

PARTS = {"forward": "forward", "both": "with gradients"}


def clock(result):
    """Returns the clock that says what the joins take: of a CPU its own time, as other work changes it less."""
    return "cpu" if result["device"].startswith("CPU") else "wall"


def floor(rates, needs, clock):
    """Returns the seconds of what `needs` names at the median `rates`."""
    # The median: a rate is the machine's, and one round's noise is not.
    return sum(
        needs[of] / rates[kind]["needs"][of] * np.median(rates[kind]["seconds"][clock])
        for kind, of in (("copy", "bytes"), ("matmul", "flops"))
    )


def table_cells(result):
    """Returns the header and the rows of the table, as strings."""
    header = ["join"]
    for part in PARTS.values():
        header += [f"{part}, ms", f"{part}, ratio to the floor", f"{part}, ratio to the first"]
    rows, by = [], clock(result)
    for mode, measured in result["modes"].items():
        joins = measured["joins"]
        first = next(iter(joins.values()))
        for name, parts in joins.items():
            row = [f"{name}, {mode}"]
            for part in PARTS:
                seconds = np.array(parts[part]["seconds"][by])
                row.append(f"{1000 * np.median(seconds):.{1 if by == 'cpu' else 2}f}")
                row.append(_quartiles(seconds / floor(measured["rates"], parts[part]["needs"], by)))
                row.append(_quartiles(seconds / np.array(first[part]["seconds"][by])))
            rows.append(row)
    return header, rows


def plot(result, path):
    """Plots each join's median time, with its floor as a line across the bar."""
    from matplotlib.figure import Figure

    modes, by = result["modes"], clock(result)
    figure = Figure(figsize=(5.5 * len(modes), 4), layout="constrained")
    for axes, (mode, measured) in zip(figure.subplots(1, len(modes), squeeze=False)[0], modes.items()):
        joins = measured["joins"]
        for place, (part, label) in zip((-0.2, 0.2), PARTS.items()):
            at = np.arange(len(joins)) + place
            axes.bar(at, [1000 * np.median(join[part]["seconds"][by]) for join in joins.values()], 0.4, label=label)
            floors = [1000 * floor(measured["rates"], join[part]["needs"], by) for join in joins.values()]
            axes.hlines(floors, at - 0.2, at + 0.2, color="black", label="floor" if part == "both" else None)
        axes.set_xticks(range(len(joins)), list(joins))
        axes.set(ylabel="ms of CPU time" if by == "cpu" else "ms", title=f"one join, {result['backend']}, {mode}")
        axes.legend()
    figure.savefig(path, dpi=120)


def _quartiles(ratios):
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"
