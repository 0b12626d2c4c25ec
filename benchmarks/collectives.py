"""What a compiled program says between chips: the collectives in XLA's text of it."""

import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(\S+) \(.*\{$")
_COLLECTIVE = re.compile(rf"^\s+(?:ROOT )?%?\S+ = (?P<shapes>.+?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_MESH_AXIS = re.compile(r"'(\w+)'=(\d+)")
_NAMED_AXIS = re.compile(r"'(\w+)'(?::\(\d+\)(\d+))?")
_WHILE = re.compile(r" while\(.*?body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


def collectives(text, num_devices):
    """Returns the collectives that one chip takes part in, in one run of a program.

    Args:
        text: What `as_text()` of a compiled program returns.
        num_devices: Number of chips of the program.

    Returns:
        List of dictionaries: `kind`, `group` (how many chips do it together), `count`, and `bytes`, the sum of what the
        group has in the end or, for a reduce-scatter, at the start of each chip; most bytes first. Equal kinds and
        groups are one entry.

    Raises:
        ValueError: If a loop has a collective in it, and the program does not say how often it runs.
    """
    found, trips, computation = {}, _trips(text), ""
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            computation = header[1]
        match = _COLLECTIVE.match(line)
        if not match:
            continue
        times = trips.get(computation, 1)
        if times is None:
            raise ValueError(f"Expected loops of a known length. Received: {match['kind']} in {computation}")
        kind, group = match["kind"], _group(line, num_devices)
        sizes = [size_in_bytes(*shape) for shape in SHAPE.findall(match["shapes"])]
        if match["start"] and kind in ("all-gather", "collective-permute"):
            # Operands, results, and semaphores that are no data.
            sizes = [size for size, shape in zip(sizes, SHAPE.findall(match["shapes"])) if shape != ("u32", "")]
            sizes = sizes[len(sizes) // 2 :]
        total = sum(sizes) * (group if kind == "reduce-scatter" else 1)
        if computation.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"  # what the TPU compiler makes of an all-reduce whose result is sliced
        entry = found.setdefault((kind, group), {"kind": kind, "group": group, "count": 0, "bytes": 0})
        entry["count"] += times
        entry["bytes"] += times * total
    return sorted(found.values(), key=lambda entry: -entry["bytes"])


def sent_bytes(found, scale=1, fixed=()):
    """Returns how many bytes a chip sends by the best algorithms on a ring.

    Args:
        found: What `collectives` returned.
        scale: By how much larger groups are taken to be.
        fixed: Sizes of groups that stay as they are.
    """
    return sum(
        entry["bytes"] * _passes(entry["kind"], entry["group"] * (1 if entry["group"] in fixed else scale))
        for entry in found
    )


def _passes(kind, group):
    if kind == "collective-permute":
        return 1.0
    return (2 if kind == "all-reduce" else 1) * (group - 1) / group


def size_in_bytes(dtype, shape):
    """Returns the bytes of an array, of the two groups of `SHAPE`."""
    bits = 8 if dtype == "pred" else int(re.sub(r"^[a-z]+(\d+).*", r"\1", dtype))
    return math.prod(int(size) for size in shape.split(",") if size) * bits // 8


def _group(line, num_devices):
    """Returns how many chips take part, from any of the forms in which XLA writes groups."""
    groups = re.search(r"replica_groups=(.*)", line)
    if groups is None:  # a permute
        return num_devices
    listed = re.match(r"\{\{([\d,]+)\}", groups[1])
    if listed:
        return listed[1].count(",") + 1
    iota = re.match(r"\[\d+,(\d+)\]", groups[1])
    if iota:
        return int(iota[1])
    mesh = re.match(r"mesh\[(.*?)\] \{(.*?)\}", groups[1])
    if mesh:
        sizes = dict(_MESH_AXIS.findall(mesh[1]))
        return math.prod(int(part or sizes[axis]) for axis, part in _NAMED_AXIS.findall(mesh[2]))
    return num_devices


def _trips(text):
    """Returns by name of a loop's body how often it runs, or `None`."""
    trips = {}
    for line in text.splitlines():
        body = _WHILE.search(line)
        if body:
            known = _TRIPS.search(line)
            trips[body[1]] = int(known[1]) if known else None
    return trips
