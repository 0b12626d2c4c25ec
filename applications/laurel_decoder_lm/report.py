"""What the runs of an experiment found: table and plot from their records."""

import numpy as np

from applications import results
from applications.results import BASELINE, around, deviation, interval, paired, spread

STYLES = ("-", "--", ":")
# What is plotted over depth: a title, and the keys of a record's joins by line style.
LEARNED = {
    "alpha (solid), beta (dashed)": ("alpha", "beta"),
    "gamma (dashed, dotted: of earlier states)": ("gamma_0", "gamma_1", "gamma_2"),
    "norm of AB of x, and of states before": (
        "low_rank_norm_0",
        "low_rank_norm_1",
        "low_rank_norm_2",
    ),
}
ORDER = ("add", "add+1", "add+4", "rw", "lr", "pa", "rw+lr", "rw+lr+pa")


def combined(records):
    """Returns the records of an experiment's runs as one; see `applications.results.combined`."""
    return results.combined(records, ORDER)


def final(run):
    """Returns the metrics on the test documents; without any, those on the held-out ones at the end."""
    metrics = run["test"] or run["held_out"][-1]
    return {key: metrics[key] for key in ("loss", "perplexity", "bits_per_byte")}


def step_seconds(runs):
    """Returns the seconds of a step in the fastest part of the runs of a variant.

    Other work on the machine makes parts slower, never faster.
    """
    fastest = []
    for run in runs:
        steps, seconds = ([0] + [row[key] for row in run["held_out"]] for key in ("step", "seconds"))
        fastest.append(np.min(np.diff(seconds) / np.diff(steps)))
    return float(min(fastest))


def losses_of(run):
    """Returns the held-out losses, an array."""
    return np.array([row["loss"] for row in run["held_out"]])


def loss_after(run, steps):
    """Returns the held-out loss after that many steps, or array of them, between evaluations by a straight line.

    A run that had ended by then has the loss of its end.
    """
    return np.interp(steps, [row["step"] for row in run["held_out"]], losses_of(run))


def summary(result):
    """Returns one dictionary a variant; differences and ratios are to the plain residual of the same seed.

    Args:
        result: What `combined` returned.
    """
    rows = []
    seconds = {name: step_seconds(runs) for name, runs in result["variants"].items()}
    for name, runs in result["variants"].items():
        losses = [final(run)["loss"] for run in runs]
        pairs = paired(result, runs)
        differences = [final(run)["loss"] - final(base)["loss"] for run, base in pairs]
        ratio = seconds[name] / seconds[BASELINE] if pairs else None
        ends = [base["held_out"][-1] for _, base in pairs]
        at_time = [loss_after(run, end["step"] / ratio) - end["loss"] for (run, _), end in zip(pairs, ends)]
        rows.append(
            {
                "variant": name,
                "weights": runs[0]["weights"],
                "extra_weights": runs[0]["weights"] - pairs[0][1]["weights"] if pairs else None,
                "seeds": len(runs),
                "loss": float(np.mean(losses)),
                "loss_std": deviation(losses),
                "difference": float(np.mean(differences)) if pairs else None,
                "difference_std": deviation(differences),
                "difference_interval": interval(differences),
                "bits_per_byte": float(np.mean([final(run)["bits_per_byte"] for run in runs])),
                "time_difference": float(np.mean(at_time)) if pairs else None,
                "time_difference_std": deviation(at_time),
                "time_ratio": ratio,
            }
        )
    return rows


def table_cells(result):
    """Returns the header and the rows of the table, as strings."""
    header = [
        "variant",
        "weights",
        "extra",
        "seeds",
        "loss",
        "beside add",
        "95% interval",
        "bits/byte",
        "at equal time",
        "step time",
    ]
    cells = []
    for row in summary(result):

        def beside(key, row=row):
            plain = row["variant"] == BASELINE or row[key] is None
            return "" if plain else f"{row[key]:+.4f}{spread(row[f'{key}_std'], 4)}"

        cells.append(
            [
                row["variant"],
                f"{row['weights']:,}",
                f"{row['extra_weights']:+,}" if row["extra_weights"] else "0",
                str(row["seeds"]),
                f"{row['loss']:.4f}{spread(row['loss_std'], 4)}",
                beside("difference"),
                "" if row["variant"] == BASELINE else around(row["difference"], row["difference_interval"]),
                f"{row['bits_per_byte']:.4f}",
                beside("time_difference"),
                "" if row["time_ratio"] is None else f"{row['time_ratio']:.3f}",
            ]
        )
    return header, cells


def plot(result, path):
    """Plots the held-out loss over steps, also beside the plain residual, and what joins learned, over depth and steps.

    All are means of the seeds; those over training also of the joins.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8), layout="constrained")
    (by_step, beside, in_training), over_depth = figure.subplots(2, 3)
    for index, (name, runs) in enumerate(result["variants"].items()):
        color = f"C{index}" if len(result["variants"]) <= 10 else colormaps["tab20"](index % 20)
        steps = np.array([row["step"] for row in runs[0]["held_out"]])
        losses = np.mean([losses_of(run) for run in runs], axis=0)
        by_step.plot(steps, losses, color=color, marker=".", label=name)
        if pairs := paired(result, runs):
            differences = [losses_of(run) - loss_after(base, steps) for run, base in pairs]
            beside.plot(steps, np.mean(differences, axis=0), color=color, marker=".")
        for key, style in zip(("alpha", "beta"), STYLES):
            _plot_in_training(in_training, runs, key, style, color)
        for axes, keys in zip(over_depth, LEARNED.values()):
            for key, style in zip(keys, STYLES):
                _plot_over_depth(axes, runs, key, style, color)
    by_step.set(xlabel="step", ylabel="nats a token", title="held-out loss")
    figure.legend(*by_step.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    low, high = np.clip(beside.get_ylim(), -0.06, 0.06)
    beside.set(xlabel="step", ylim=(low, high), title="minus that of add, same seeds (within 0.06)")
    in_training.set(xlabel="step", title="mean of alpha (solid), beta (dashed)")
    if not in_training.lines:
        in_training.set_axis_off()
        in_training.set_title("alpha and beta in training: not recorded")
    for axes, title in zip(over_depth, LEARNED):
        axes.set(xlabel="join", title=title)
        axes.set_visible(bool(axes.lines))
    for axes in (in_training, *over_depth[:2]):
        axes.axhline(1.0, color="gray", linewidth=0.5)
    figure.savefig(path, dpi=120)


def _plot_in_training(axes, runs, key, style, color):
    """Plots the mean of a weight over the joins, where the runs say it; old records do not."""
    curves = [
        [
            (row["step"], np.mean(values))
            for row in run.get("joins_in_training", [])
            if (values := _values(row["values"], key))
        ]
        for run in runs
    ]
    curves = [curve for curve in curves if curve]
    if curves:
        axes.plot(*np.mean(curves, axis=0).T, style, color=color, marker=".")


def _values(joins, key):
    return [join[key] for join in joins.values() if key in join]


def _plot_over_depth(axes, runs, key, style, color):
    places = [place for place, join in enumerate(runs[0]["joins"].values(), 1) if key in join]
    if places:
        values = np.mean([_values(run["joins"], key) for run in runs], axis=0)
        axes.plot(places, values, style, color=color, marker=".")
