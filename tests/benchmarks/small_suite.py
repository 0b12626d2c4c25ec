"""Suites for `test_suite.py`. As a program, one whose run says that it has begun, and then sleeps."""

import dataclasses
import os
import sys
import time

from benchmarks.suite import run_jobs


@dataclasses.dataclass(frozen=True)
class Job:
    name: str
    cost: float = 1.0


def process_of(job):
    return {"process": os.getpid()}


def page_faults(job):
    """Returns how many pages the kernel gave for a buffer that is taken four times more."""
    import resource

    before = 0
    for i in range(5):
        b"x" * 2**26  # freed at once
        if i == 0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return {"faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before}


def sleep(job):
    print("begun", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    run_jobs([Job("sleep")], sys.argv[1], sleep, processes=1)
