"""A suite whose one run says that it has begun, and then sleeps: `test_suite.py` kills it."""

import dataclasses
import sys
import time

from benchmarks.suite import run_jobs


@dataclasses.dataclass(frozen=True)
class Sleep:
    name: str = "sleep"
    cost: float = 1.0


def record(job):
    print("begun", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    run_jobs([Sleep()], sys.argv[1], record, processes=1)
