"""The first table of README: of each join, what it gained and what it cost in the records that say most."""

from applications.laurel_decoder_lm.report import final
from applications.results import interval, paired
from benchmarks.timing import ratios
from benchmarks.tpu_compile_report import figures

JOINS = ("rw", "lr", "pa", "rw+lr", "rw+lr+pa")
CONTROL = "more blocks"
HEADER = [
    "join",
    "decoder, test loss",
    "ResNet, test accuracy",
    "decoder, step time",
    "ResNet-50, step time",
    "decoder, TPU memory",
]


def table_cells(load):
    """Returns the header and the rows of the table, as strings; all beside the plain residual.

    Args:
        load: Function of the name of a result that returns it; see `benchmarks.report.load`.
    """
    # A result, its name of the control, and what is shown of a variant in it.
    columns = (
        (load("cpp_docs_deep"), "add+4", _loss),
        (load("cifar10_small"), "add+1", _accuracy),
        (load("decoder_block_step_time_jax"), "add+1", _step_time),
        (load("resnet50_step_time_jax"), "add+1", _step_time),
        (load("decoder_157m_v6e"), "add+4", _memory),
    )
    rows = []
    for join in (*JOINS, CONTROL):
        cells = [show(result, control if join == CONTROL else join) for result, control, show in columns]
        rows.append([f"`{join}`" if join != CONTROL else join, *cells])
    return HEADER, rows


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
    return f"{f'**{shown}**' if abs(mean) > half else shown} ({mean - half:+{form}} to {mean + half:+{form}})"


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
