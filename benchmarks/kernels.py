"""What a program that is compiled for a GPU runs: its kernels and the bytes that they move, in XLA's text of it."""

import re

from benchmarks.collectives import SHAPE, size_in_bytes

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?(%[\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)")
_NAME = re.compile(r"%[\w.\-]+")
# What moves nothing: names for what is there.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id")


def kernels(text):
    """Returns the bytes that each kernel of one run reads and writes: its operands and results, each once.

    Args:
        text: What `as_text()` of a compiled program returns. Calls of libraries count as kernels. A loop would count
            as one, so there must be none.

    Raises:
        ValueError: If the program has a loop.
    """
    entry = text[text.index("\nENTRY ") :].split("\n}", 1)[0]
    sizes, moved = {}, []
    for line in entry.splitlines():
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        name, shapes, kind, rest = match.groups()
        if kind == "while":
            raise ValueError(f"Expected a program without loops. Received: {name}")
        sizes[name] = sum(size_in_bytes(*shape) for shape in SHAPE.findall(shapes))
        if kind not in _FREE:
            operands = _NAME.findall(rest.split(")", 1)[0])
            moved.append(sizes[name] + sum(sizes[operand] for operand in operands))
    return moved
