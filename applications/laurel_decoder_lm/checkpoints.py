"""Checkpoints: one file each, whole or not there, of which the last two are kept."""

import json
import zipfile

import numpy as np

from applications.distribution import ALONE, whole_array
from applications.errors import UserError
from applications.files import write_whole

KEPT = 2


class Checkpoints:
    """The checkpoints of a run, `step-00000500.npz` and so on. They are the same whatever distribution writes them.

    Args:
        folder: A `pathlib.Path`; made with the first checkpoint.
        distribution: A `Distribution`, whose chief writes.
    """

    def __init__(self, folder, distribution=ALONE):
        self.folder = folder
        self.distribution = distribution

    def paths(self):
        """Returns the files, oldest first."""
        return sorted(self.folder.glob("step-*.npz"))

    def save(self, step, variables, state):
        """Writes the checkpoint of `step`, and removes all but the last two; to be called in all processes.

        Args:
            step: Number of steps done.
            variables: List of Keras variables.
            state: What else to keep, fit for JSON.

        Raises:
            OSError: If there is no room for it; the earlier ones are still there.
            FloatingPointError: If a variable is not finite; likewise.
        """
        arrays = {}
        for index, variable in enumerate(variables):
            array = whole_array(variable)
            if array.dtype.name == "bfloat16":
                array = array.astype("float32")  # NumPy's files know no bfloat16
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise FloatingPointError(f"{variable.path} is not finite")
            if self.distribution.is_chief:
                arrays[f"{index:05d}"] = array
        if not self.distribution.is_chief:
            return
        self.folder.mkdir(exist_ok=True)
        for leftover in self.folder.glob(".*.npz"):  # of a process that was killed while it wrote
            leftover.unlink()
        text = json.dumps({"state": state, "variables": [variable.path for variable in variables]})
        arrays["state"] = np.frombuffer(text.encode(), "uint8")
        write_whole(self.folder / f"step-{step:08d}.npz", lambda path: np.savez(path, **arrays))
        for old in self.paths()[:-KEPT]:
            old.unlink()

    def last(self):
        """Returns the file of the last checkpoint whose every byte is as it was written, or `None`."""
        for path in reversed(self.paths()):
            try:
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is None:
                        return path
            except (zipfile.BadZipFile, EOFError):
                continue
        return None


def read_state(path):
    """Returns the `state` of the checkpoint at `path`."""
    with np.load(path) as archive:
        return _contents(archive)["state"]


def restore(path, variables):
    """Sets `variables` to the first ones of the checkpoint at `path`.

    Args:
        path: File of a checkpoint.
        variables: The list that was given to `Checkpoints.save`, or the beginning of it.

    Raises:
        UserError: If they have other shapes there.
    """
    with np.load(path) as archive:
        names = _contents(archive)["variables"]
        for index, variable in enumerate(variables):
            array = archive[f"{index:05d}"]
            if array.shape != tuple(variable.shape):
                raise UserError(
                    f"{path} is of another model: {names[index]} has the shape {array.shape} there, "
                    f"but {tuple(variable.shape)} here"
                )
            variable.assign(array)


def _contents(archive):
    return json.loads(archive["state"].tobytes())
