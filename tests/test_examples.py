"""Each example runs as its README says, prints what is kept there up to the numbers, and does what it claims."""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "examples" / "README.md").read_text("utf-8")
BACKEND = keras.backend.backend()
NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?"


def kept():
    """Returns the commands that README shows, each with the lines that it prints."""
    blocks = re.findall(r"^    \$ (.+)\n((?:    .*\n)*)", README, re.MULTILINE)
    return {command: re.sub("^    ", "", lines, flags=re.MULTILINE).splitlines() for command, lines in blocks}


def backend_of(command):
    """Returns the only backend that a command is for, or `None`."""
    loop = re.search(r"training_loop_(\w+)\.py", command)
    if loop:
        return loop[1]
    return re.match(r"KERAS_BACKEND=(\w+)", command)[1] if "sharded_training" in command else None


COMMANDS = [command for command in kept() if backend_of(command) in (None, BACKEND)]


@functools.cache
def run(command):
    """Returns the lines that a command of README prints, on the backend of the tests."""
    words = [word for word in shlex.split(command) if not word.startswith("KERAS_BACKEND=")]
    done = subprocess.run(
        [sys.executable, *words[1:]],
        env={**os.environ, "KERAS_BACKEND": BACKEND, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def masked(lines):
    return [re.sub(NUMBER, "#", "text: ..." if line.startswith("text: ") else line) for line in lines]


def values(lines):
    """Returns the numbers of each line that is of the form `label: numbers`."""
    pairs = [line.split(": ", 1) for line in lines if ": " in line]
    return {label: [float(number) for number in re.findall(NUMBER, rest)] for label, rest in pairs}


def falls(losses):
    return losses[-1] < losses[0]


def learned(printed):
    alphas = [numbers[0] for label, numbers in printed.items() if "join" in label and label != "joins"]
    return len(alphas) == 3 and any(alpha != 1 for alpha in alphas)


def loop_learns(printed):
    losses = [printed[f"epoch {epoch}"][-1] for epoch in range(5)]
    return falls(losses) and printed["held-out accuracy"][0] > 0.9 and learned(printed)


def trains_as_one_device(printed):
    alone = values(run("python examples/sharded_training.py --kind none"))
    return (
        printed["replicas"][0] > alone["replicas"][0] == 1
        and falls(printed["loss"])
        and printed["loss"] == pytest.approx(alone["loss"], abs=1e-3)
    )


CLAIMS = {
    "functional_cnn": lambda p: falls(p["training loss"]) and p["held-out accuracy"][0] > 0.9 and learned(p),
    "vision_transformer": lambda p: falls(p["training loss"]) and p["held-out accuracy"][0] > 0.8,
    "retrofit_resnet50": lambda p: (
        p["joins"] == [16]
        and abs(p["loss of the plain network"][0] - p["loss of the retrofitted network"][0]) < 1e-3
        and falls(p["loss of the retrofitted network"])
    ),
    "retrofit_keras_hub_lm": lambda p: falls(p["loss"]),
    "training_loop_jax": loop_learns,
    "training_loop_tensorflow": loop_learns,
    "training_loop_torch": loop_learns,
    "sharded_training": trains_as_one_device,
    "fold_and_export": lambda p: (
        p["weights"][0] > p["weights"][1] == p["weights"][2] and p["folded"][0] < 1e-4 and p["exported"][0] < 1e-4
    ),
}


# Each runs on one backend every day: what is behind it has tests on all of them. Of a model over devices the recipes'
# tests say the same.
LONG = {
    "functional_cnn.py": pytest.mark.slow_on("jax", "torch"),
    "vision_transformer.py": pytest.mark.slow_on("tensorflow", "torch"),
    "retrofit_keras_hub_lm.py": pytest.mark.slow_on("jax", "tensorflow"),
    "retrofit_resnet50.py": pytest.mark.slow_on("jax", "tensorflow"),
    "sharded_training.py": pytest.mark.slow_on("tensorflow", "torch"),
    "sharded_training.py --kind model:2x2": pytest.mark.slow,
    "fold_and_export.py": pytest.mark.slow_on("jax", "torch"),
}


def parameter(command):
    name = command.split("examples/")[1]
    return pytest.param(command, id=name, marks=LONG.get(name, ()))


@pytest.mark.parametrize("command", [parameter(command) for command in COMMANDS])
def test_it_prints_what_is_kept_and_keeps_its_claim(command):
    lines = run(command)
    assert masked(lines) == masked(kept()[command])
    printed = values(lines)
    assert CLAIMS[re.search(r"examples/(\w+)\.py", command)[1]](printed), printed


def test_readme_has_every_example_with_its_commands():
    files = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert sorted(re.findall(r"^## \[(\w+\.py)\]\(\1\)$", README, re.MULTILINE)) == files
    for command in kept():
        name = re.search(r"examples/(\w+\.py)", command)[1]
        assert f"    {command}\n" in (ROOT / "examples" / name).read_text("utf-8"), command
