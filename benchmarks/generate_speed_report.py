"""What `benchmarks.generate_speed` measured: table and plot from its JSON record."""

from benchmarks import step_time_report

plot = step_time_report.plot


def table_cells(result):
    """Returns the header and the rows of the table, as strings."""
    units = {
        "prefill": ("ms", lambda seconds: f"{1000 * seconds:.1f}"),
        "decode": ("tokens/s", lambda seconds: f"{result['new_tokens'] / seconds:,.0f}"),
    }
    return step_time_report.table_cells(result, units)
