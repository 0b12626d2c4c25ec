"""What suites of runs do when they are killed; the rest is in the tests of `mad` and `isoflop`."""

import subprocess
import sys


def test_the_runs_of_a_suite_that_is_killed_end_with_it(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks.sleeping_suite", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as suite:
        assert suite.stdout is not None
        assert suite.stdout.readline() == "begun\n"
        suite.kill()
        suite.communicate(timeout=60)  # the end of what is written, once all that could write have ended
