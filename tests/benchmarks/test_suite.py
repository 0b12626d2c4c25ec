"""What suites of runs do when they are killed; the rest is in the tests of `mad` and `isoflop`."""

import json
import platform
import subprocess
import sys

import pytest

from benchmarks import suite
from tests.benchmarks.small_suite import Job, page_faults, process_of


def test_the_runs_of_a_suite_that_is_killed_end_with_it(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks.small_suite", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        running.kill()
        running.communicate(timeout=60)  # the end of what is written, once all that could write have ended


def test_a_process_that_has_done_its_share_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "RUNS_OF_A_PROCESS", 2)
    jobs = [Job(f"run_{i}") for i in range(3)]
    suite.run_jobs(jobs, tmp_path, process_of, processes=1)
    first, second, third = (json.loads((tmp_path / f"{job.name}.json").read_text())["process"] for job in jobs)
    assert first == second != third


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="A setting of glibc.")
def test_memory_is_kept_from_step_to_step(tmp_path, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    suite.run_jobs([Job("run")], tmp_path, page_faults, processes=1)
    assert json.loads((tmp_path / "run.json").read_text())["faults"] < 100
