"""What LAuReL adds to the traffic between chips, as slices grow: table and plot from records of `tpu_compile`."""

from applications.results import SHARED
from benchmarks import tpu_compile_report
from benchmarks.collectives import sent_bytes

LARGEST = 1024


def combined(records):
    """Returns the records of a folder as one: the origin of the first, and results of `tpu_compile` by slice."""
    first = min(records, key=lambda record: record["date"])
    slices = {}
    for record in sorted(records, key=lambda record: (record["settings"]["mesh"] != "data", record["chips"])):
        slices.setdefault((record["settings"]["mesh"], record["chips"]), []).append(record)
    return {
        **{key: first[key] for key in SHARED},
        "program": "tpu_scaling",
        "device": "; ".join(sorted({record["device"] for record in records})),
        "slices": [
            {"mesh": mesh, "chips": chips, **tpu_compile_report.combined(group)}
            for (mesh, chips), group in slices.items()
        ],
    }


def rows(result):
    """Returns pairs of a slice's name and, by variant, the megabytes that a chip sends in a step.

    The largest slice is not compiled: its groups along the data axis are taken to be larger, and each chip's part of
    the batch the same, so that what they exchange is the same.
    """
    found = []
    for part in result["slices"]:
        found.append((_words(part, part["chips"]), _sent(part)))
        last = not any(other["chips"] > part["chips"] and _kind(other) == _kind(part) for other in result["slices"])
        if last and part["chips"] < LARGEST:
            found.append((f"{_words(part, LARGEST)}, by formula", _sent(part, LARGEST // part["chips"])))
    return found


def _kind(part):
    return "data" if part["mesh"] == "data" else "model"


def _words(part, chips):
    if _kind(part) == "data":
        return f"data, {chips:,} chips"
    model = int(part["mesh"].split("x")[1])
    return f"data {chips // model} by model {model}"


def _sent(part, scale=1):
    # Groups along the model axis stay as they are. One along the data axis can be as large; then so does it.
    fixed = () if part["mesh"] == "data" else (int(part["mesh"].split("x")[1]),)
    metrics = {"sent": lambda record: sent_bytes(record["collectives"], scale, fixed) / 1e6}
    return {name: row["sent"] for name, row in tpu_compile_report.figures(part, metrics).items()}


def table_cells(result):
    """Returns the header and the rows of the table, as strings."""
    found = rows(result)
    names = [name for name in found[0][1] if not name.startswith("add")]
    header = ["slice", "add, MB sent", *(f"{name} adds" for name in names)]
    cells = []
    for words, sent in found:
        plain = sent["add"]
        cells.append([words, f"{plain:.1f}", *(f"{sent[n] - plain:+.2f} ({sent[n] / plain:.3f})" for n in names)])
    return header, cells


def plot(result, path):
    """Plots what each variant adds to the traffic of the plain residual, by slice."""
    import numpy as np
    from matplotlib.figure import Figure

    found = rows(result)
    names = [name for name in found[0][1] if not name.startswith("add")]
    figure = Figure(figsize=(1.6 * len(found) + 2, 4), layout="constrained")
    axes = figure.subplots()
    places, width = np.arange(len(found)), 0.8 / max(len(names), 1)
    for index, name in enumerate(names):
        added = [100 * (sent[name] / sent["add"] - 1) for _, sent in found]
        axes.bar(places + index * width, added, width, label=name)
    axes.set_xticks(places + 0.4 - width / 2, [words.replace(", ", "\n") for words, _ in found])
    axes.set(ylabel="percent above the plain residual", title="bytes that a chip sends in a step")
    axes.legend()
    figure.savefig(path, dpi=120)
