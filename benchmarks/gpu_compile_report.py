"""What `benchmarks.gpu_compile` found: table and plot from its JSON record."""

COLUMNS = {"kernels": ("kernels", 1, ".0f"), "moved": ("GB moved", 1e9, ".2f"), "temporaries": ("GB held", 1e9, ".3f")}


def table_cells(result):
    """Returns the header and the rows of the table, as strings; ratios are to the first variant."""
    first = next(iter(result["variants"].values()))
    header = [f"variant, {result['settings']['num_layers']} blocks", "weights"]
    header += [cell for name, _, _ in COLUMNS.values() for cell in (name, "ratio")]
    rows = []
    for variant, found in result["variants"].items():
        cells = [
            cell
            for key, (_, unit, form) in COLUMNS.items()
            for cell in (f"{found[key] / unit:{form}}", f"{found[key] / first[key]:.3f}")
        ]
        rows.append([variant, f"{found['weights']:,}", *cells])
    return header, rows


def plot(result, path):
    """Plots each variant's ratios to the first."""
    from matplotlib.figure import Figure

    first = next(iter(result["variants"].values()))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for key, (name, _, _) in COLUMNS.items():
        ratios = [found[key] / first[key] for found in result["variants"].values()]
        axes.plot(list(result["variants"]), ratios, "o", label=name.removeprefix("GB "))
    axes.axhline(1.0, color="gray", linewidth=0.5)
    axes.set(ylabel=f"beside {next(iter(result['variants']))}", title=result["device"].split(",")[0])
    axes.legend()
    figure.savefig(path, dpi=120)
