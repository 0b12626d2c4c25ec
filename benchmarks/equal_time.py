"""What gains are worth: in steps of the plain residual, and beside it when it has as much time."""

import numpy as np

from applications.laurel_decoder_lm.report import final, losses_of
from applications.results import BASELINE, around, deviation, interval, paired, spread
from benchmarks.timing import ratios

# Of the plot.
SUBLAYER = ("rw@joins=sublayer", "pa@joins=sublayer")
LONGER = "add, where it ends after more steps"
HEADER = ["variant", "seeds", "at equal steps", "worth, in steps", "step time", "at equal time", "95% interval"]


def table_cells(load):
    """Returns the header and the rows of the table, as strings.

    Args:
        load: Function of the name of a result that returns it; see `benchmarks.report.load`.
    """
    cells = []
    for row in summary(load):
        worth = row["worth"]
        at_steps, at_time = (f"{row[key]:+.4f}{spread(row[f'{key}_std'], 4)}" for key in ("at_steps", "at_time"))
        cells.append(
            [
                row["variant"],
                str(row["seeds"]),
                at_steps,
                "" if worth is None else f"{100 * (worth - 1):+.0f}%",
                f"{100 * (row['ratio'] - 1):+.0f}%",
                at_time,
                around(row["at_time"], row["interval"]),
            ]
        )
    return HEADER, cells


def summary(load):
    """Returns one dictionary a variant whose step was timed and whose ratio the longer runs of `add` reach.

    The loss of `add` after as many steps as take the time is read off a line between runs with fewer and with more,
    each of a schedule of its own length. All differences are to `add` of the same seed. `worth` is how many times as
    many steps give `add` the mean gain; `None` if it is a loss, or more than the longest run's.
    """
    losses = {"variants": {}}
    for name in ("cpp_docs_deep", "cpp_docs_deep_settings", "cpp_docs_deep_peers"):
        losses["variants"] |= load(name)["variants"]
    timed = load("cpp_docs_deep_step_time_jax")["variants"]
    seconds = ratios({name: run["seconds"]["train"]["wall"] for name, run in timed.items()})
    lengths, longer = by_steps(load)
    rows = []
    for name, (_, ratio, _) in seconds.items():
        pairs = [pair for pair in paired(losses, losses["variants"].get(name, [])) if pair[0]["seed"] in longer]
        if name == BASELINE or not pairs or ratio > lengths[-1]:
            continue
        at_steps = [final(run)["loss"] - final(base)["loss"] for run, base in pairs]
        gains = np.array([longer[run["seed"]] for run, _ in pairs])
        at_time = [difference - np.interp(ratio, lengths, own) for difference, own in zip(at_steps, gains)]
        mean, curve = float(np.mean(at_steps)), np.mean(gains, axis=0)
        rows.append(
            {
                "variant": name,
                "ratio": ratio,
                "seeds": len(pairs),
                "at_steps": mean,
                "at_steps_std": deviation(at_steps),
                "worth": float(np.interp(-mean, -curve, lengths)) if curve[-1] <= mean <= 0 else None,
                "at_time": float(np.mean(at_time)),
                "at_time_std": deviation(at_time),
                "interval": interval(at_time),
            }
        )
    return rows


def plot(load, path):
    """Plots the held-out loss over the time of training, by step times that were measured side by side.

    Args:
        load: See `table_cells`.
        path: Where the plot goes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves(load).items():
        axes.plot(*curve, "C0.--" if name == LONGER else ".-", label=name)
    axes.set(
        xlabel="minutes of training steps, two cores",
        ylabel="held-out loss, nats a byte",
        xlim=(2, None),
        ylim=(1.6, 2),
    )
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def curves(load):
    """Returns, of each variant whose step was timed, the minutes of steps and the mean held-out losses after them.

    The last curve, `LONGER`, goes through the ends of the runs of `add`, from the shortest to the longest.
    """
    timed = load("cpp_docs_deep_step_time_jax")["variants"]
    minutes = {name: np.median(run["seconds"]["train"]["wall"]) / 60 for name, run in timed.items()}
    settings = load("cpp_docs_deep_settings")["variants"]
    shown = load("cpp_docs_deep")["variants"] | {name: settings[name] for name in SUBLAYER if name in settings}
    found = {name: _curve(runs, minutes[name]) for name, runs in shown.items() if name in minutes}
    _, seeds = by_steps(load)
    longer = load("cpp_docs_deep_steps")["variants"].values()
    longer = [[run for run in runs if run["seed"] in seeds] for runs in longer]
    ends = sorted(tuple(_curve(runs, minutes[BASELINE])[:, -1]) for runs in longer)
    return {**found, LONGER: np.transpose(ends)}


def _curve(runs, minutes):
    times = [minutes * row["step"] for row in runs[0]["held_out"]]
    return np.array([times, np.mean([losses_of(run) for run in runs], axis=0)])


def by_steps(load):
    """Returns how long the runs of `add` are beside the shortest, rising, and by seed by how much their losses differ.

    Seeds that lack a length are left out.
    """
    runs = [run for runs in load("cpp_docs_deep_steps")["variants"].values() for run in runs]
    losses = {(run["seed"], run["config"]["steps"]): final(run)["loss"] for run in runs}
    steps = sorted({run["config"]["steps"] for run in runs})
    seeds = [seed for seed in {run["seed"] for run in runs} if all((seed, count) in losses for count in steps)]
    differences = {seed: [losses[seed, count] - losses[seed, steps[0]] for count in steps] for seed in seeds}
    return [count / steps[0] for count in steps], differences
