"""What `benchmarks.kernel_time` found: table and plot from its JSON record."""


def table_cells(result):
    """Returns the header and the rows of the table, as strings; ratios and differences are to the first variant."""
    blocks = result["settings"]["num_layers"]
    first = next(iter(result["variants"].values()))
    header = [f"variant, {blocks} blocks", "weights", "kernels", "ms", "ratio", "more, us a block"]
    rows = []
    for variant, found in result["variants"].items():
        more = found["seconds"] - first["seconds"]
        kernels, milliseconds = f"{found['kernels']}", f"{1e3 * found['seconds']:.2f}"
        ratio, difference = f"{found['seconds'] / first['seconds']:.3f}", f"{1e6 * more / blocks:.0f}"
        rows.append([variant, f"{found['weights']:,}", kernels, milliseconds, ratio, difference])
    return header, rows


def plot(result, path):
    """Plots what each variant takes beside the first, a block."""
    from matplotlib.figure import Figure

    variants = result["variants"]
    first = next(iter(variants.values()))["seconds"]
    blocks = result["settings"]["num_layers"]
    more = [1e6 * (found["seconds"] - first) / blocks for found in variants.values()]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.bar(list(variants), more)
    axes.set(ylabel=f"microseconds a block more than {next(iter(variants))}", title=result["device"])
    figure.savefig(path, dpi=120)
