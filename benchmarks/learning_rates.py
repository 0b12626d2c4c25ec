"""The table of the learning-rate check: whether a join is judged at another's best rate."""

from collections import defaultdict

from applications.laurel_decoder_lm.report import final
from applications.results import BASELINE

RESULT, SETTING = "cpp_docs_deep_rates", "@learning_rate="


def table_cells(load):
    """Returns the header and the rows of the table, as strings: losses, and what they are beside the plain residual's.

    Args:
        load: Function of the name of a result that returns it; see `benchmarks.report.load`.
    """
    losses = defaultdict(dict)
    for name, runs in load(RESULT)["variants"].items():
        variant, rate = name.split(SETTING)
        losses[variant][rate] = final(runs[0])["loss"]
    rates = sorted(losses[BASELINE], key=float)
    rows = [[variant, *(_cell(of, losses[BASELINE], rate) for rate in rates)] for variant, of in losses.items()]
    return ["variant", *rates], rows


def _cell(losses, baseline, rate):
    if rate not in losses:
        return ""
    loss = f"**{losses[rate]:.4f}**" if losses[rate] == min(losses.values()) else f"{losses[rate]:.4f}"
    return loss if losses is baseline else f"{loss} ({losses[rate] - baseline[rate]:+.4f})"
