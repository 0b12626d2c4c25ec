"""What a comparison found: table, CSV and plot from its JSON record."""

import csv

import numpy as np


def summary(result):
    """Returns one dictionary a variant: weights, held-out loss, and what differs from the first variant.

    `gap` is the difference of the held-out losses of a seed, and `_std` the standard deviation over seeds. A ratio of
    step times is the median, with quartiles, of the ratios of single steps on the same batch; the first two steps of a
    seed compile and do not count.

    Args:
        result: The record of a run, as `results.json` holds it.
    """
    baseline = next(iter(result["variants"].values()))
    rows = []
    for name, variant in result["variants"].items():
        pairs = list(zip(variant["runs"], baseline["runs"]))
        losses = np.array([run["held_out"][-1][1] for run, _ in pairs])
        gaps = losses - [base["held_out"][-1][1] for _, base in pairs]
        ratios = np.concatenate([np.divide(run["step_seconds"][2:], base["step_seconds"][2:]) for run, base in pairs])
        low, middle, high = np.percentile(ratios, [25, 50, 75]) if len(ratios) else [float("nan")] * 3
        rows.append(
            {
                "variant": name,
                "weights": variant["weights"],
                "extra_weights": variant["weights"] - baseline["weights"],
                "seeds": len(losses),
                "held_out_loss": float(np.mean(losses)),
                "held_out_loss_std": float(np.std(losses, ddof=1)) if len(losses) > 1 else None,
                "gap": float(np.mean(gaps)),
                "gap_std": float(np.std(gaps, ddof=1)) if len(gaps) > 1 else None,
                "step_time_ratio": float(middle),
                "step_time_ratio_q1": float(low),
                "step_time_ratio_q3": float(high),
            }
        )
    return rows


def table_cells(result):
    """Returns the header and the rows of the table, as strings."""
    rows = summary(result)
    header = ["variant", "weights", "extra", "held-out loss", f"minus that of {rows[0]['variant']}", "step time"]

    def with_spread(row, key, sign=""):
        return f"{row[key]:{sign}.3f}" + ("" if row[f"{key}_std"] is None else f" ± {row[f'{key}_std']:.3f}")

    cells = []
    for row in rows:
        cells.append(
            [
                row["variant"],
                f"{row['weights']:,}",
                f"{row['extra_weights']:+,}" if row["extra_weights"] else "0",
                with_spread(row, "held_out_loss"),
                with_spread(row, "gap", "+") if row is not rows[0] else "",
                f"{row['step_time_ratio']:.3f} ({row['step_time_ratio_q1']:.2f}-{row['step_time_ratio_q3']:.2f})",
            ]
        )
    return header, cells


def write_csv(result, path):
    """Writes `summary` to a CSV file."""
    rows = summary(result)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def plot(result, path):
    """Plots the losses over the steps, their difference to the first variant, and alpha and beta over depth."""
    from matplotlib.figure import Figure

    variants = {name: variant["runs"] for name, variant in result["variants"].items()}
    baseline = next(iter(variants))
    figure = Figure(figsize=(13, 4), layout="constrained")
    train, difference, depth = figure.subplots(1, 3)
    base_losses = np.array([[loss for _, loss in run["held_out"]] for run in variants[baseline]])
    for index, (name, runs) in enumerate(variants.items()):
        color = f"C{index}"
        loss = np.mean([run["train_loss"] for run in runs], axis=0)
        width = max(1, len(loss) // 25)
        smooth = np.convolve(loss, np.ones(width) / width, "valid")
        train.plot(np.arange(width, len(loss) + 1), smooth, color=color, label=name, linewidth=1)
        steps = [step for step, _ in runs[0]["held_out"]]
        gaps = np.array([[loss for _, loss in run["held_out"]] for run in runs]) - base_losses[: len(runs)]
        difference.plot(steps, gaps.mean(axis=0), color=color, marker=".", label=name)
        if len(runs) > 1:
            deviation = gaps.std(axis=0, ddof=1)
            difference.fill_between(
                steps,
                gaps.mean(axis=0) - deviation,
                gaps.mean(axis=0) + deviation,
                color=color,
                alpha=0.15,
                linewidth=0,
            )
        if runs[0]["joins"] and "alpha" in runs[0]["joins"][0]:
            for key, style in (("alpha", "-"), ("beta", "--")):
                values = np.mean([[join[key] for join in run["joins"]] for run in runs], axis=0)
                depth.plot(
                    range(1, len(values) + 1),
                    values,
                    style,
                    color=color,
                    marker=".",
                    label=name if key == "alpha" else None,
                )
    train.set(xlabel="step", ylabel="nats a character", title="training loss")
    train.legend()
    difference.set(xlabel="step", title=f"held-out loss minus that of '{baseline}'")
    depth.set(xlabel="join", title="alpha (solid), beta (dashed) over depth")
    depth.axhline(1.0, color="gray", linewidth=0.5)
    if depth.get_legend_handles_labels()[0]:
        depth.legend()
    figure.savefig(path, dpi=120)
