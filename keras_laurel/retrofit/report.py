"""What `find_joins` returns: the joins of a model, and the adds that are none."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Join:
    """A residual join that `laurelize` makes a LAuReL join.

    Attributes:
        name: Name of the new layer; after the names of the models that it is nested in, if any.
        replaces: Name of the layer or operation that it replaces or wraps.
        kind: `"Add"`, `"+"`, or the class of the wrapped block.
        shape: Shape of the stream, with `None` for unknown dimensions.
        num_previous: How many earlier states its stream has: PA weighs the last k - 1 of them.
        skip: Name of what makes the skip `x`.
        branch: Name of what makes the branch `f(x)`.
    """

    name: str
    replaces: str
    kind: str
    shape: tuple
    num_previous: int
    skip: str
    branch: str


@dataclass(frozen=True)
class LeftAlone:
    """An add, or a block, that `laurelize` leaves as it is.

    Attributes:
        name: Name of the layer or operation; after the names of the models that it is nested in, if any.
        kind: `"Add"`, `"+"`, or the class of the block.
        reason: Why it is left alone.
    """

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The joins of a model in the order of its graph, and what was left alone. `str` makes it a table."""

    joins: tuple[Join, ...]
    left_alone: tuple[LeftAlone, ...]

    def __str__(self):
        rows = [("join", "replaces", "kind", "shape", "previous", "skip", "branch")]
        rows += [tuple(str(value) for value in vars(join).values()) for join in self.joins]
        lines = _table(rows)
        if self.left_alone:
            rows = [("left alone", "kind", "reason")]
            lines += ["", *_table(rows + [tuple(vars(entry).values()) for entry in self.left_alone])]
        return "\n".join(lines)


def _table(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
