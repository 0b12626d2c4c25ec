"""What `benchmarks.tpu_compile` found: table and plot from its records."""

import numpy as np

from applications.results import SHARED
from benchmarks.collectives import sent_bytes

ORDER = ("add", "add+1", "rw", "lr", "pa", "rw+lr", "rw+pa", "lr+pa", "rw+lr+pa")
# Peak memory of table 5 (arXiv 2411.07501), GB on a TPU v6e 4x4, for its small LM.
PAPER = {
    "add": 11.65,
    "add+4": 13.23,
    "rw": 11.93,
    "lr": 12.29,
    "pa": 12.55,
    "rw+lr": 12.57,
    "rw+lr+pa": 12.90,
}
METRICS = {
    "weights": lambda record: record["weights"],
    "peak": lambda record: peak(record["memory"]) / 2**30,
    "temporaries": lambda record: record["memory"]["temporaries"] / 2**30,
    "flops": lambda record: record["flops"] / 1e12,
    "moved": lambda record: record["bytes_accessed"] / 1e9,
    "sent": lambda record: sent_bytes(record["collectives"]) / 1e6,
    "exchanges": lambda record: sum(entry["count"] for entry in record["collectives"]),
}
MEMORY = ("peak", "temporaries")


def peak(memory):
    """Returns the bytes that a chip holds at most: arguments, results that do not take their place, temporaries."""
    return memory["arguments"] + memory["outputs"] - memory["aliased"] + memory["temporaries"]


def combined(records):
    """Returns the records of a folder as one: the origin of the first, and the records by variant."""
    first = min(records, key=lambda record: record["date"])
    names = {record["settings"]["variant"] for record in records}
    order = [name for name in ORDER if name in names]
    variants = {name: [record for record in records if record["settings"]["variant"] == name] for name in order}
    settings = {key: value for key, value in first["settings"].items() if key not in ("variant", "num_layers")}
    return {**{key: first[key] for key in SHARED}, "settings": settings, "variants": variants}


def figures(result, metrics=METRICS):
    """Returns by variant what a whole model takes: dictionaries of the keys of `metrics`.

    Where a variant was compiled at two numbers of blocks or more, but not at the model's, a straight line through them
    gives the figures; and those of the plain residual with a sixth more blocks, as `"add+4"` for 24. With `remat` a
    block leaves next to nothing behind, so that memory is that of the output layer and no line: it is given of the
    most blocks that were compiled, and as `nan` of a sixth more.
    """
    whole = result["settings"].get("model_layers")
    rows = {}
    for name, records in result["variants"].items():
        rows[name] = {key: _at(_blocks(key, result), records, metric) for key, metric in metrics.items()}
    if whole and len(result["variants"].get("add", [])) > 1:
        more = whole // 6
        rows[f"add+{more}"] = {
            key: _at(whole + more, result["variants"]["add"], metric) if _blocks(key, result) == whole else np.nan
            for key, metric in metrics.items()
        }
    return rows


def _blocks(key, result):
    """Returns of how many blocks a figure is."""
    if key in MEMORY and result["settings"].get("remat"):
        return depths(result)[-1]
    return result["settings"].get("model_layers")


def depths(result):
    """Returns the sorted numbers of blocks that were compiled."""
    return sorted({r["settings"]["num_layers"] for records in result["variants"].values() for r in records} - {None})


def _at(num_layers, records, metric):
    points = {record["settings"]["num_layers"]: metric(record) for record in records}
    if len(points) == 1 or num_layers in points:
        return points.get(num_layers, next(iter(points.values())))
    slope, start = np.polyfit(list(points), list(points.values()), 1)
    return float(start + slope * num_layers)


def table_cells(result):
    """Returns the header and the rows of the table, as strings; ratios are to the plain residual."""
    rows = figures(result)
    base = rows.get("add", next(iter(rows.values())))
    settings = result["settings"]
    published = PAPER if settings.get("size") == "157m" and settings["joins"] == "block" else {}
    of = f" of {_blocks('peak', result)} blocks" if _blocks("peak", result) != settings.get("model_layers") else ""
    header = [_title(result), "weights, M", f"peak{of}, GiB", "ratio", *(["paper's"] if published else [])]
    header += [f"temporaries{of}, GiB", "ratio", "TFLOP", "ratio", "GB moved", "ratio", "MB sent", "ratio", "exchanges"]
    cells = []
    for name, row in rows.items():
        line = [name, f"{row['weights'] / 1e6:.2f}"]
        for key, form in (("peak", ".3f"), ("temporaries", ".3f"), ("flops", ".4g"), ("moved", ".4g"), ("sent", ".1f")):
            known = not np.isnan(row[key])
            line += [
                f"{row[key]:{form}}" if known else "",
                f"{row[key] / base[key]:.3f}" if known and base[key] else "",
            ]
            if key == "peak" and published:
                line.append(f"{published[name] / published['add']:.3f}" if name in published else "")
        cells.append([*line, f"{row['exchanges']:.0f}"])
    return header, cells


def _title(result):
    """Returns what the rows are of: a chip's part, and how many blocks were compiled."""
    whole, compiled = result["settings"].get("model_layers"), depths(result)
    if whole is None or compiled == [whole]:
        return "variant"
    numbers = " and ".join(map(str, compiled))
    return f"variant, {whole} blocks from {numbers}" if len(compiled) > 1 else f"variant, {numbers} of {whole} blocks"


def plot(result, path):
    """Plots the ratios of peak memory and of bytes moved to those of the plain residual."""
    from matplotlib.figure import Figure

    rows = figures(result)
    base = rows.get("add", next(iter(rows.values())))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    for index, (key, words) in enumerate({"peak": "peak memory", "moved": "bytes moved"}.items()):
        axes.bar(places + 0.4 * index - 0.2, [row[key] / base[key] - 1 for row in rows.values()], 0.4, label=words)
    axes.set_xticks(places, list(rows))
    axes.axhline(0.0, color="gray", linewidth=0.5)
    axes.set(ylabel="above the plain residual", title=result["device"])
    axes.legend()
    figure.savefig(path, dpi=120)
