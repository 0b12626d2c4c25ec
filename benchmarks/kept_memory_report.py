"""What `benchmarks.kept_memory` found: table and plot from its JSON record."""


def table_cells(result):
    """Returns the header and the rows of the table, as strings; ratios are to the first variant."""
    settings = result["settings"]
    first = next(iter(result["variants"].values()))
    sequences = settings["batch_size"] * settings["num_layers"]
    header = [f"variant, {settings['num_layers']} blocks", "weights", "MB kept, a block and sequence", "ratio"]
    return header, [
        [
            variant,
            f"{found['weights']:,}",
            f"{found['kept'] / sequences / 1e6:.2f}",
            f"{found['kept'] / first['kept']:.3f}",
        ]
        for variant, found in result["variants"].items()
    ]


def plot(result, path):
    """Plots each variant's ratio to the first."""
    from matplotlib.figure import Figure

    variants = result["variants"]
    first = next(iter(variants.values()))["kept"]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(variants), [found["kept"] / first for found in variants.values()], "o")
    axes.axhline(1.0, color="gray", linewidth=0.5)
    axes.set(ylabel=f"kept for the gradient, beside {next(iter(variants))}", title="PyTorch")
    figure.savefig(path, dpi=120)
