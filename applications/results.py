"""What the reports of the recipes share: records of runs as one result, and spreads."""

import numpy as np

BASELINE = "add"
SHARED = ("program", "command", "date", "commit", "dirty", "device", "cores", "precision", "versions", "backend")


def combined(records, variants):
    """Returns the records of an experiment's runs as one: the origin of the first, and the runs by variant.

    Args:
        records: List of records, with `variant` and `seed`.
        variants: Names of variants, in the order in which they shall come; further ones come after them.
    """
    names = {record["variant"] for record in records}
    order = [name for name in variants if name in names] + sorted(names - set(variants))
    runs = {name: sorted((r for r in records if r["variant"] == name), key=lambda r: r["seed"]) for name in order}
    first = min(records, key=lambda record: record["date"])
    return {**{key: first[key] for key in SHARED}, "variants": runs}


def paired(result, runs):
    """Returns pairs of each of `runs` and the plain residual's of the same seed, as far as there is one."""
    baseline = {run["seed"]: run for run in result["variants"].get(BASELINE, [])}
    return [(run, baseline[run["seed"]]) for run in runs if run["seed"] in baseline]


def deviation(values):
    """Returns the standard deviation of a sample, or `None` for less than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def interval(differences):
    """Returns half of the 95% interval of the mean of paired differences by Student's t; `None` for less than two."""
    from scipy import stats

    if len(differences) < 2:
        return None
    return float(stats.t.ppf(0.975, len(differences) - 1) * deviation(differences) / np.sqrt(len(differences)))


def spread(value, digits, scale=1):
    """Returns `value`, scaled, as ` ± value`, or nothing for `None`."""
    return "" if value is None else f" ± {scale * value:.{digits}f}"


def around(mean, half, form=".4f"):
    """Returns the interval of `half` to either side of `mean`, in the number format `form`; nothing for `None`."""
    return "" if half is None else f"{mean - half:+{form}} to {mean + half:+{form}}"
