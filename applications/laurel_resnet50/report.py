"""What the runs of an experiment found: table and plot from their records."""

import numpy as np

BASELINE = "add"


def combined(records):
    """Returns the records of an experiment's runs as one: the origin of the first, and the runs by variant.

    Args:
        records: List of what `train.run` recorded, with `variant` and `seed`.
    """
    from applications.laurel_resnet50.configs import VARIANTS

    names = {record["variant"] for record in records}
    order = [name for name in VARIANTS if name in names] + sorted(names - set(VARIANTS))
    runs = {
        name: sorted((r for r in records if r["variant"] == name), key=lambda record: record["seed"]) for name in order
    }
    first = min(records, key=lambda record: record["date"])
    shared = ("program", "command", "date", "commit", "dirty", "device", "cores", "precision", "versions", "backend")
    return {**{key: first[key] for key in shared}, "variants": runs}


def summary(result):
    """Returns one dictionary a variant; differences and ratios are to the plain residual of the same seed.

    The seconds of an epoch are those of the fastest after the first, which compiles: other work on the machine makes
    epochs slower, never faster.

    Args:
        result: What `combined` returned.
    """
    baseline = {run["seed"]: run for run in result["variants"].get(BASELINE, [])}
    rows = []
    for name, runs in result["variants"].items():
        accuracies = np.array([run["test"]["accuracy"] for run in runs])
        paired = [(run, baseline[run["seed"]]) for run in runs if run["seed"] in baseline]
        differences = [run["test"]["accuracy"] - base["test"]["accuracy"] for run, base in paired]
        ratios = [epoch_seconds(run) / epoch_seconds(base) for run, base in paired]
        rows.append(
            {
                "variant": name,
                "weights": runs[0]["weights"],
                "extra_weights": runs[0]["weights"] - paired[0][1]["weights"] if paired else None,
                "seeds": len(runs),
                "accuracy": float(accuracies.mean()),
                "accuracy_std": _std(accuracies),
                "cross_entropy": float(np.mean([run["test"]["cross_entropy"] for run in runs])),
                "difference": float(np.mean(differences)) if paired else None,
                "difference_std": _std(differences),
                "time_ratio": float(np.median(ratios)) if paired else None,
            }
        )
    return rows


def epoch_seconds(run):
    """Returns the training seconds of the fastest epoch after the first; of the first, if there is one only."""
    seconds = [epoch["seconds"] for epoch in run["epochs"]]
    return min(seconds[1:] or seconds)


def table_cells(result):
    """Returns the header and the rows of the table, as strings."""
    header = ["variant", "weights", "extra", "seeds", "test accuracy, %", "beside add", "cross-entropy", "time"]
    cells = []
    for row in summary(result):
        plain = row["variant"] == BASELINE or row["difference"] is None
        cells.append(
            [
                row["variant"],
                f"{row['weights']:,}",
                f"{row['extra_weights']:+,}" if row["extra_weights"] else "0",
                str(row["seeds"]),
                f"{100 * row['accuracy']:.2f}{_spread(row['accuracy_std'])}",
                "" if plain else f"{100 * row['difference']:+.2f}{_spread(row['difference_std'])}",
                f"{row['cross_entropy']:.4f}",
                "" if row["time_ratio"] is None else f"{row['time_ratio']:.2f}",
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
        curves.legend()
    ends.set_xticks(range(len(result["variants"])), list(result["variants"]))
    ends.set(ylabel="%", title="test accuracy: each seed, and their mean")
    figure.savefig(path, dpi=120)


def _std(values):
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _spread(deviation):
    return "" if deviation is None else f" ± {100 * deviation:.2f}"
