"""The documents: their code runs, and what they link to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(path for folder in ("applications", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.md")),
]


def code(document):
    """Returns the blocks of Python of a document, but for those that want what a command has written before."""
    return [
        block
        for block in re.findall(r"```python\n(.*?)```", document.read_text("utf-8"), re.DOTALL)
        if "runs/" not in block
    ]


@pytest.mark.parametrize("document", list(filter(code, DOCUMENTS)), ids=lambda path: str(path.relative_to(ROOT)))
def test_code_blocks_run_in_order(document):
    names = {}
    for block in code(document):
        exec(compile(block, str(document), "exec"), names)


def anchors(document):
    """Returns what GitHub names the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_headings_that_documents_link_to_exist(document):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8")):
        file, _, anchor = target.partition("#")
        path = document.parent / file if file else document
        if "://" not in target and not (path.exists() and (not anchor or anchor in anchors(path))):
            broken.append(target)
    assert broken == []
