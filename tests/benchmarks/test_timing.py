import gc

import pytest

from benchmarks import timing
from benchmarks.timing import ratios, side_by_side


class Machine:
    """A clock, and functions that take the seconds they are told to."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def function(self, name, seconds):
        remaining = iter(seconds)

        def call():
            self.calls.append(name)
            self.now += next(remaining)

        return call


def test_each_round_times_every_callable_once_and_warm_up_does_not_count():
    machine, rounds = Machine(), []
    callables = {"a": machine.function("a", [9, 9, 1, 2, 3]), "b": machine.function("b", [8, 8, 4, 5, 6])}
    clocks = {"fast": lambda: machine.now, "slow": lambda: machine.now / 2}
    seconds = side_by_side(callables, 3, warmup=2, clocks=clocks, on_round=rounds.append)
    assert seconds == {
        "fast": {"a": [1, 2, 3], "b": [4, 5, 6]},
        "slow": {"a": [0.5, 1, 1.5], "b": [2, 2.5, 3]},
    }
    assert machine.calls[:4] == ["a", "a", "b", "b"]
    assert [sorted(machine.calls[i : i + 2]) for i in (4, 6, 8)] == [["a", "b"]] * 3
    assert rounds == [1, 2, 3]


def test_rounds_end_with_the_one_that_uses_their_time_up(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: machine.now)
    callables = {"a": machine.function("a", [4] * 9), "b": machine.function("b", [1] * 9)}
    seconds = side_by_side(callables, 9, warmup=0, clocks={"wall": lambda: machine.now}, max_seconds=12)
    assert seconds == {"wall": {"a": [4] * 3, "b": [1] * 3}}


def test_the_order_changes_from_round_to_round_and_follows_the_seed():
    def orders(seed):
        machine = Machine()
        callables = {name: machine.function(name, [1] * 8) for name in "abc"}
        side_by_side(callables, 8, warmup=0, seed=seed)
        return machine.calls

    calls = orders(0)
    assert len({tuple(calls[i : i + 3]) for i in range(0, 24, 3)}) > 2
    assert orders(0) == calls != orders(1)


def test_garbage_is_collected_between_the_calls_alone_and_again_by_itself_after_an_error():
    enabled = []

    def fail():
        enabled.append(gc.isenabled())
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011, the one of `fail`
        side_by_side({"a": fail}, 1, warmup=0)
    assert enabled == [False]
    assert gc.isenabled()


def test_ratios_are_those_of_a_round_to_the_first_callable():
    # The machine is ten times slower in the third round, for both: 1.5, 1.1, 1.2, 1.3, 1.4
    seconds = {"a": [2, 10, 100, 10, 10], "b": [3, 11, 120, 13, 14]}
    assert ratios(seconds) == {"a": (1, 1, 1), "b": pytest.approx((1.2, 1.3, 1.4))}
