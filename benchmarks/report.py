"""Makes the tables and plots of the documents from the JSON files in `benchmarks/results`.

    python -m benchmarks.report            rewrites them
    python -m benchmarks.report --check    exits with 1 if a document and the results disagree

A document marks the place of a table by `<!-- table: NAME -->` and `<!-- end table -->`, NAME being the result's file,
`NAME.json`, or the folder of an experiment's records, `PROGRAM/NAME`; those named in `COMPARISONS` are made of
one or several of them in a way of their own. `NAME without COLUMN, COLUMN` leaves columns out, such as the times of
runs that shared a machine.
"""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from applications.laurel_decoder_lm import report as laurel_decoder_lm
from applications.laurel_resnet50 import report as laurel_resnet50
from applications.tiny_lm import report as tiny_lm
from benchmarks import (
    equal_time,
    generate_speed_report,
    gpu_compile_report,
    join_cost_report,
    kept_memory_report,
    kernel_time_report,
    learning_rates,
    mixers_speed_report,
    overview,
    step_time_report,
    tpu_compile_report,
    tpu_scaling_report,
)
from benchmarks.isoflop import report as isoflop
from benchmarks.mad import published as mad_published
from benchmarks.mad import report as mad

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PLOTS = ROOT / "benchmarks" / "plots"
DOCUMENTS = (
    "README.md",
    "applications/laurel_resnet50/README.md",
    "applications/laurel_decoder_lm/README.md",
    "benchmarks/README.md",
    "benchmarks/mad/README.md",
)
PROGRAMS = {
    "tiny_lm": tiny_lm,
    "laurel_resnet50": laurel_resnet50,
    "laurel_decoder_lm": laurel_decoder_lm,
    "step_time": step_time_report,
    "generate_speed": generate_speed_report,
    "join_cost": join_cost_report,
    "mixers_speed": mixers_speed_report,
    "gpu_compile": gpu_compile_report,
    "kernel_time": kernel_time_report,
    "kept_memory": kept_memory_report,
    "tpu_compile": tpu_compile_report,
    "tpu_scaling": tpu_scaling_report,
    "mad": mad,
    "isoflop": isoflop,
}
# Tables of one or several results, as functions of `load`.
COMPARISONS = {
    "overview": overview.table_cells,
    "equal_time": equal_time.table_cells,
    "learning_rates": learning_rates.table_cells,
    "cpp_docs_isoflop_pairs": lambda load: isoflop.paired_cells(load("cpp_docs_isoflop")),
    "mad_differences": lambda load: mad.difference_cells(load("mad_cpu")),
    "mad_headroom_differences": lambda load: mad.difference_cells(load("mad_headroom")),
    "mad_published": lambda load: mad_published.cells(load("mad_memorization")),
}
TABLE = re.compile(r"(?<=<!-- table: )(\w+)((?: without ([\w ,]+))? -->\n).*?(?=<!-- end table -->)", re.DOTALL)


def load(name):
    """Returns the recorded result `name`.

    Raises:
        FileNotFoundError: If nothing is recorded.
    """
    path = RESULTS / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text())
    for program in PROGRAMS:
        records = [json.loads(path.read_text()) for path in sorted((RESULTS / program / name).glob("*.json"))]
        if records:
            return PROGRAMS[program].combined(records)
    raise FileNotFoundError(path)


def markdown_table(name, without=()):
    """Returns the table of the result `name`, but for the columns `without`, with a line on where it comes from.

    Raises:
        ValueError: If a column to leave out is not there.
    """
    if name in COMPARISONS:
        return f"{_table(*COMPARISONS[name](load), without=without)}\n"
    try:
        result = load(name)
    except FileNotFoundError:
        return "Nothing is recorded yet.\n"
    table = _table(*PROGRAMS[result["program"]].table_cells(result), without=without)
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    file = f"{name}.json" if (RESULTS / f"{name}.json").exists() else f"{result['program']}/{name}/"
    source = f"`benchmarks/results/{file}`: `{result['command']}`, {result['date'][:10]}, commit {result['commit'][:7]}"
    return f"{table}\n\n{source}, {result['device']}, {result['cores']} cores, {result['precision']}, {versions}.\n"


def _table(header, rows, without):
    left_out = [header.index(title) for title in without]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    lines = [[cell for i, cell in enumerate(line) if i not in left_out] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_tables(text):
    """Returns the document `text` with each marked table made anew."""

    def table(match):
        name, rest, without = match.groups()
        return f"{name}{rest}{markdown_table(name, without.split(', ') if without else ())}"

    return TABLE.sub(table, text)


def main(
    check: Annotated[bool, typer.Option(help="Change nothing; exit with 1 if a table is not as recorded.")] = False,
):
    """Makes the tables and plots of the documents from the recorded results."""
    stale = False
    for document in DOCUMENTS:
        path = ROOT / document
        text = path.read_text("utf-8")
        new = with_tables(text)
        if check and new != text:
            print(f"{document} differs from benchmarks/results: run make report")
            stale = True
        elif not check:
            path.write_text(new, "utf-8")
    if not check:
        PLOTS.mkdir(exist_ok=True)
        folders = [folder for program in PROGRAMS for folder in RESULTS.glob(f"{program}/*")]
        for name in sorted(path.stem for path in [*RESULTS.glob("*.json"), *folders]):
            result = load(name)
            PROGRAMS[result["program"]].plot(result, PLOTS / f"{name}.png")
        for comparison in (overview, equal_time):
            comparison.plot(load, PLOTS / f"{comparison.__name__.split('.')[-1]}.png")
    raise typer.Exit(stale)


if __name__ == "__main__":
    typer.run(main)
