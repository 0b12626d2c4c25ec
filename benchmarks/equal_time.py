"""The table of what joins gain when the plain residual may train for as long: more steps, in the time they take."""

import numpy as np

from applications.laurel_decoder_lm.report import final
from applications.results import BASELINE, deviation, interval, paired, spread
from benchmarks.timing import ratios

HEADER = ["variant", "step time", "seeds", "at equal steps", "add with the steps", "at equal time", "95% interval"]


def table_cells(load):
    """Returns the header and the rows of the table, as strings.

    Args:
        load: Function of the name of a result that returns it; see `benchmarks.report.load`.
    """
    cells = []
    for row in summary(load):
        half, mean = row["interval"], row["at_time"]
        around = "" if half is None else f"{mean - half:+.4f} to {mean + half:+.4f}"
        by_steps, by_time = (f"{row[key]:+.4f}{spread(row[f'{key}_std'], 4)}" for key in ("at_steps", "at_time"))
        name, ratio, seeds = row["variant"], f"{row['ratio']:.3f}", str(row["seeds"])
        cells.append([name, ratio, seeds, by_steps, f"{row['longer']:+.4f}", by_time, around])
    return HEADER, cells


def summary(load):
    """Returns one dictionary a variant whose step was timed and whose ratio the longer runs of `add` reach.

    The loss of `add` after as many steps as take the time is read off a line between runs with fewer and with more,
    each of a schedule of its own length. All differences are to `add` of the same seed.
    """
    losses = {"variants": {}}
    for name in ("cpp_docs_deep", "cpp_docs_deep_settings", "cpp_docs_deep_peers"):
        losses["variants"] |= load(name)["variants"]
    timed = load("cpp_docs_deep_step_time_jax")["variants"]
    seconds = ratios({name: run["seconds"]["train"]["wall"] for name, run in timed.items()})
    longer = _by_steps(load("cpp_docs_deep_steps"))
    rows = []
    for name, (_, ratio, _) in seconds.items():
        pairs = [pair for pair in paired(losses, losses["variants"].get(name, [])) if pair[0]["seed"] in longer]
        if name == BASELINE or not pairs or ratio > min(max(longer[run["seed"]][0]) for run, _ in pairs):
            continue
        base = [final(base)["loss"] for _, base in pairs]
        at_steps = np.subtract([final(run)["loss"] for run, _ in pairs], base)
        gained = np.array([np.interp(ratio, *longer[run["seed"]]) for run, _ in pairs]) - base
        at_time = at_steps - gained
        rows.append(
            {
                "variant": name,
                "ratio": ratio,
                "seeds": len(pairs),
                "at_steps": float(np.mean(at_steps)),
                "at_steps_std": deviation(at_steps),
                "longer": float(np.mean(gained)),
                "at_time": float(np.mean(at_time)),
                "at_time_std": deviation(at_time),
                "interval": interval(at_time),
            }
        )
    return rows


def _by_steps(result):
    """Returns, by seed, how long the runs of `add` were beside the shortest, in rising order, and their losses."""
    runs = [run for runs in result["variants"].values() for run in runs]
    shortest = min(run["config"]["steps"] for run in runs)
    found = {}
    for run in sorted(runs, key=lambda run: run["config"]["steps"]):
        lengths, losses = found.setdefault(run["seed"], ([], []))
        lengths.append(run["config"]["steps"] / shortest)
        losses.append(final(run)["loss"])
    return found
