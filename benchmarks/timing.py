"""Times callables side by side, so that the ratios of their times can be trusted on a machine with other work."""

import contextlib
import gc
import math
import time

import numpy as np

# Of the machine, and of the process's own threads.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def side_by_side(
    callables, rounds, warmup=3, seed=0, clocks=CLOCKS, on_round=lambda number: None, max_seconds=math.inf
):
    """Calls every callable once a round, each round in another random order.

    What slows the machine for a while so meets all of them alike. Garbage is collected between the rounds alone.

    Args:
        callables: Dictionary of names to functions without arguments, each of which returns when its work is done.
        rounds: Number of rounds.
        warmup: Number of calls of each before the first round, which do not count.
        seed: Of the orders.
        clocks: Dictionary of names to functions that return seconds.
        on_round: Called with the number of each round after it.
        max_seconds: How long the rounds may take together; the one that goes beyond is the last.

    Returns:
        Dictionary of the clocks' names to dictionaries of the callables' names to lists of seconds, one a round.
    """
    for function in callables.values():
        for _ in range(warmup):
            function()
    seconds = {clock: {name: [] for name in callables} for clock in clocks}
    order = np.random.default_rng(seed)
    begin = time.perf_counter()
    with _collected_by_hand():
        for number in range(1, rounds + 1):
            gc.collect()
            for name in order.permutation(list(callables)):
                start = {clock: read() for clock, read in clocks.items()}
                callables[name]()
                for clock, read in clocks.items():
                    seconds[clock][name].append(read() - start[clock])
            on_round(number)
            if time.perf_counter() - begin >= max_seconds:
                break
    return seconds


def ratios(seconds):
    """Returns what each callable takes beside the first: the quartiles of the ratios, round by round.

    Args:
        seconds: What `side_by_side` returned of one clock.

    Returns:
        Dictionary of names to the tuple of lower quartile, median and upper quartile.
    """
    first = next(iter(seconds.values()))
    return {
        name: tuple(np.percentile(np.divide(values, first), [25, 50, 75]).tolist()) for name, values in seconds.items()
    }


@contextlib.contextmanager
def _collected_by_hand():
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()  # what is there stays: going through it would cost each round half a second
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
