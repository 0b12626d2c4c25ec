"""What the runs of an experiment found: table and plot from their records."""

import numpy as np

from applications import results
from applications.results import BASELINE, deviation, paired, spread


def combined(records):
    """Returns the records of an experiment's runs as one; see `applications.results.combined`."""
    from applications.laurel_resnet50.configs import VARIANTS

    return results.combined(records, VARIANTS)


def summary(result):
    """Returns one dictionary a variant; differences are to the plain residual of the same seed.

    Args:
        result: What `combined` returned.
    """
    rows = []
    for name, runs in result["variants"].items():
        accuracies = np.array([run["test"]["accuracy"] for run in runs])
        pairs = paired(result, runs)
        differences = [run["test"]["accuracy"] - base["test"]["accuracy"] for run, base in pairs]
        rows.append(
            {
                "variant": name,
                "weights": runs[0]["weights"],
                "extra_weights": runs[0]["weights"] - pairs[0][1]["weights"] if pairs else None,
                "seeds": len(runs),
                "accuracy": float(accuracies.mean()),
                "accuracy_std": deviation(accuracies),
                "cross_entropy": float(np.mean([run["test"]["cross_entropy"] for run in runs])),
                "difference": float(np.mean(differences)) if pairs else None,
                "difference_std": deviation(differences),
            }
        )
    return rows


def table_cells(result):
    """Returns the header and the rows of the table, as strings."""
    header = ["variant", "weights", "extra", "seeds", "test accuracy, %", "beside add", "cross-entropy"]
    cells = []
    for row in summary(result):
        plain = row["variant"] == BASELINE or row["difference"] is None
        cells.append(
            [
                row["variant"],
                f"{row['weights']:,}",
                f"{row['extra_weights']:+,}" if row["extra_weights"] else "0",
                str(row["seeds"]),
                f"{100 * row['accuracy']:.2f}{spread(row['accuracy_std'], 2, 100)}",
                "" if plain else f"{100 * row['difference']:+.2f}{spread(row['difference_std'], 2, 100)}",
                f"{row['cross_entropy']:.4f}",
            ]
        )
    return header, cells


def plot(result, path):
    """Plots the accuracy on the held-out images at each evaluation, and that of each run on the test images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    curves, ends = figure.subplots(1, 2)
    for index, (name, runs) in enumerate(result["variants"].items()):
        color = f"C{index}"
        epochs = [[epoch["val_accuracy"] for epoch in run["epochs"] if "val_accuracy" in epoch] for run in runs]
        if all(epochs):
            mean = 100 * np.mean(epochs, axis=0)
            curves.plot(range(1, len(mean) + 1), mean, color=color, marker=".", label=name)
        accuracies = [100 * run["test"]["accuracy"] for run in runs]
        ends.plot([index] * len(accuracies), accuracies, "o", color=color, alpha=0.5)
        ends.plot([index - 0.25, index + 0.25], [np.mean(accuracies)] * 2, color=color)
    curves.set(xlabel="evaluation", ylabel="%", title="held-out accuracy, mean of the seeds")
    if curves.get_legend_handles_labels()[0]:
        curves.legend(loc="upper left", fontsize="small")
    # A line a setting.
    ends.set_xticks(range(len(result["variants"])), [name.replace("@", "\n@") for name in result["variants"]])
    ends.set(ylabel="%", title="test accuracy: each seed, and their mean")
    figure.savefig(path, dpi=120)
