"""By how much each tensor of a graph is scaled: a system of differences."""

import numpy as np

TOLERANCE = 1e-9  # two scales that differ by less, relatively, are one


class Scales:
    """The logarithms of the scales of the tensors of a graph, solved as their ties come in.

    A folded model computes `tensor / exp(log_scale)` in place of each `tensor`. Each layer ties the scales of its
    inputs and outputs: most ask that two be equal, a join that they differ by the logarithm of alpha or beta, and those
    that can take no scale that it be one. Layers with a kernel ask for nothing, since the kernel absorbs any scale.
    What is tied together, directly or not, is a component; a tie within one either holds or is a contradiction.

    A tensor is named by any object. A scale is a float, or a vector over the channels.

    Attributes:
        one: What stands for the scale of one.
    """

    def __init__(self):
        self.one = object()
        self._components = {}
        self._edges = {}
        self._needs = []

    def tie(self, a, b, difference=0.0, why=None):
        """Asks that the log scale of `b` be that of `a` plus `difference`.

        Args:
            a: A tensor.
            b: A tensor.
            difference: Float, or vector over the channels.
            why: What to say about this tie when it is part of a contradiction; `None` for nothing.

        Raises:
            ValueError: If earlier ties say otherwise.
        """
        home, other = self._component(a), self._component(b)
        shift = home.members[id(a)][1] + difference - other.members[id(b)][1]
        if home is not other:
            for node, log_scale in other.members.values():
                home.members[id(node)] = node, log_scale + shift
                self._components[id(node)] = home
            home.streams |= other.streams
            home.axis = other.axis if home.axis is None else home.axis
        elif np.any(np.abs(shift) > TOLERANCE):
            raise ValueError(
                "Expected joins whose alpha and beta the layers around them can absorb. Serve the model as it is, or "
                "train it with plain joins there: `residual` may be a callable. Received: "
                + _listed([*self._path(a, b), why])
            )
        self._edges.setdefault(id(a), []).append((b, why))
        self._edges.setdefault(id(b), []).append((a, why))

    def pin(self, node, why):
        """Asks that the scale of `node` be one."""
        self.tie(self.one, node, why=why)

    def need(self, node, axis, why):
        """Asks that the scale of `node` be a vector along `axis` if it is one; `axis=None` that it be a number."""
        self._needs.append((node, axis, why))

    def set_axis(self, node, axis):
        """Says along which axis the vectors of what `node` is tied to lie."""
        self._component(node).axis = axis

    def mark(self, node):
        """Counts `node` among the states of a stream, whose scales must stay in the range of the floats."""
        self._component(node).streams.add(id(node))

    def excess(self, node, difference, most):
        """Returns by how much the log scale of the next state of a stream should be less than it would be.

        Args:
            node: The newest state.
            difference: By how much the log scale of the next state is more than that of `node`.
            most: How far the log scales of a stream may lie apart.

        Returns:
            Float: zero within the range, else what leads back to the middle of the states so far.
        """
        component = self._component(node)
        following = component.members[id(node)][1] + difference
        low, high = component.range(self.one)
        if max(high, np.max(following)) - min(low, np.min(following)) <= most:
            return 0.0
        return float(np.mean(following)) - (low + high) / 2

    def check(self):
        """Raises a `ValueError` if a vector of scales is where a number is needed."""
        for node, axis, why in self._needs:
            if np.ndim(self[node]) and axis != self._component(node).axis:
                raise ValueError(
                    f"Expected no scale of its own for each channel (`per_channel`) before or behind {why}. Serve the "
                    "model as it is, or train it without `per_channel`. "
                    f"Received: scales between {np.exp(np.min(self[node])):.3g} and {np.exp(np.max(self[node])):.3g}"
                )

    def __getitem__(self, node):
        """Returns the log scale of `node`: a float, or a vector of unequal floats."""
        component = self._component(node)
        return simplified(component.members[id(node)][1] - component.base(self.one))

    def _component(self, node):
        return self._components.setdefault(id(node), _Component(node))

    def _path(self, a, b):
        """Returns what is to be said about the ties that lead from `a` to `b`."""
        ways: dict = {id(a): ()}
        queue = [a]
        for node in queue:
            for neighbour, why in self._edges.get(id(node), ()):
                if id(neighbour) not in ways:
                    ways[id(neighbour)] = (*ways[id(node)], why)
                    queue.append(neighbour)
        return ways[id(b)]


def _listed(reasons):
    """Returns the reasons that are known, each once, as one text; of many the first and the last."""
    reasons = list(dict.fromkeys(filter(None, reasons)))
    return "; ".join(reasons if len(reasons) <= 4 else [*reasons[:2], "...", *reasons[-2:]])


class _Component:
    """Tensors whose scales are tied: `members` maps the `id` of each to it and its log scale, up to a constant."""

    def __init__(self, node):
        self.members = {id(node): (node, 0.0)}
        self.streams = set()
        self.axis = None

    def range(self, one):
        marked = [self.members[key][1] for key in self.streams | ({id(one)} & self.members.keys())]
        return (min(map(np.min, marked)), max(map(np.max, marked))) if marked else (0.0, 0.0)

    def base(self, one):
        """Returns the constant: zero is where the scale is one, else in the middle of the streams' range."""
        return self.members[id(one)][1] if id(one) in self.members else sum(self.range(one)) / 2


def simplified(log_scale):
    """Returns a vector of equal log scales as a float, and all others as they are."""
    log_scale = np.asarray(log_scale, "float64")
    return float(log_scale.flat[0]) if np.ptp(log_scale) <= TOLERANCE else log_scale
