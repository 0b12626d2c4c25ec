"""The first table and plot of README: of each join, what it gained and what it cost in the records that say most."""

import numpy as np

from applications.laurel_decoder_lm.report import final
from applications.results import BASELINE, around, interval, paired
from benchmarks import equal_time
from benchmarks.timing import ratios
from benchmarks.tpu_compile_report import figures

JOINS = ("rw", "lr", "pa", "rw+lr", "rw+lr+pa")
CONTROL = "more blocks"
TICKS = (-0.2, -0.1, -0.05, -0.02, 0, 0.02, 0.05)
# Of long names of variants, in the plot.
SHORT = {
    "pa@num_activations=12": "pa@12 states",
    "denseformer@num_activations=12": "DenseFormer",
    "rw+pa@previous=first@residual_weights=free": "x0 mixing",
    "hyperconnections": "hyper-connections",
    "layerscale": "LayerScale",
    "rezero": "ReZero",
    "add+4": "add, 4 more blocks",
}
SUBLAYER = "@joins=sublayer"
HEADER = [
    "join",
    "decoder, a join a block: test loss",
    "two joins a block: test loss",
    "two joins: step time",
    "two joins: TPU memory",
    "ResNet, test accuracy",
    "ResNet-50, step time",
]


def table_cells(load):
    """Returns the header and the rows of the table, as strings; all beside the plain residual.

    Args:
        load: Function of the name of a result that returns it; see `benchmarks.report.load`.
    """
    # A result, what its names of joins end in, its name of the control, and what is shown of a variant in it.
    columns = (
        (load("cpp_docs_deep"), "", "add+4", _loss),
        (load("cpp_docs_deep_settings"), SUBLAYER, None, _loss),
        (load("decoder_sublayer_step_time_jax"), "", "add+1", _step_time),
        (load("decoder_157m_sublayer_v6e"), "", "add+4", _memory),
        (load("cifar10_small"), "", "add+1", _accuracy),
        (load("resnet50_step_time_jax"), "", "add+1", _step_time),
    )
    rows = []
    for join in (*JOINS, CONTROL):
        cells = [show(result, control if join == CONTROL else join + end) for result, end, control, show in columns]
        rows.append([f"`{join}`" if join != CONTROL else join, *cells])
    return HEADER, rows


def plot(load, path):
    """Plots the gain of each join, and those of other papers, against its cost in the model that was trained.

    Args:
        load: See `table_cells`.
        path: Where the plot goes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for name, (low, middle, high), mean, half in points(load):
        is_control, is_ours = name.startswith("add"), name.split("@")[0] in JOINS
        line = axes.errorbar(
            100 * (middle - 1),
            -mean,
            xerr=[[100 * (middle - low)], [100 * (high - middle)]],
            yerr=None if half is None else [[half], [half]],
            marker="s" if is_control else "o" if is_ours else "^",
            color="C1" if is_control else "C0" if is_ours else "C2",
            elinewidth=0.6,
        )
        place = {"xytext": (-5, 4), "ha": "right"} if is_ours else {"xytext": (5, 4), "ha": "left"}
        at = line[0].get_xydata()[0]
        label = f"{SHORT.get(name, name)}".replace(SUBLAYER, ", a sublayer")
        axes.annotate(label, at, fontsize=8, textcoords="offset points", **place)
    lengths, longer = equal_time.by_steps(load)
    gains = -np.mean(list(longer.values()), axis=0)
    axes.plot(100 * (np.array(lengths) - 1), gains, color="C1", marker=".", label="add, trained for as much longer")
    axes.legend(loc="lower right")
    axes.set_yscale("symlog", linthresh=0.05)
    axes.set_yticks(TICKS, map(str, TICKS))
    axes.axhline(0, color="gray", linewidth=0.5)
    axes.axvline(0, color="gray", linewidth=0.5)
    axes.set(
        xlabel="more time a training step than add, %",
        ylabel="less test loss than add, nats a byte (linear within 0.05)",
    )
    figure.savefig(path, dpi=120)


def points(load):
    """Returns, of each variant of the decoder with both, `(name, ratio of times, difference of losses, interval)`.

    The ratio is a triple of its quartiles, as `benchmarks.timing.ratios` returns it; the interval is half of one of
    95%, or `None` for one seed.
    """
    losses, times = load("cpp_docs_deep_peers"), load("cpp_docs_deep_step_time_jax")
    losses["variants"] |= load("cpp_docs_deep_settings")["variants"] | load("cpp_docs_deep")["variants"]
    quartiles = ratios({name: run["seconds"]["train"]["wall"] for name, run in times["variants"].items()})
    found = []
    for name, runs in losses["variants"].items():
        if name != BASELINE and name in quartiles:
            differences = [final(run)["loss"] - final(base)["loss"] for run, base in paired(losses, runs)]
            found.append((name, quartiles[name], sum(differences) / len(differences), interval(differences)))
    return found


def _loss(result, name):
    return _difference(result, name, lambda run: final(run)["loss"], ".4f", " nats")


def _accuracy(result, name):
    return _difference(result, name, lambda run: 100 * run["test"]["accuracy"], ".1f", " points")


def _difference(result, name, metric, form, unit):
    """Returns the mean difference of paired runs, its 95% interval and the number of seeds."""
    pairs = paired(result, result["variants"].get(name, []))
    if not pairs:
        return ""
    differences = [metric(run) - metric(base) for run, base in pairs]
    mean, half = sum(differences) / len(differences), interval(differences)
    if half is None:
        return f"{mean:+{form}}{unit} (1 seed)"
    shown = f"{mean:+{form}}{unit}"
    return f"{f'**{shown}**' if abs(mean) > half else shown} ({around(mean, half, form)})"


def _step_time(result, name):
    base = result["variants"]["add"]
    if name not in result["variants"]:
        return ""
    seconds = {key: run["seconds"]["train"]["wall"] for key, run in (("add", base), (name, result["variants"][name]))}
    low, middle, high = ratios(seconds)[name]
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _memory(result, name):
    rows = figures(result)
    return f"{rows[name]['peak'] / rows['add']['peak']:.3f}" if name in rows else ""
