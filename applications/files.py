"""Files that are whole or not there."""

import json
import os
import tempfile
from pathlib import Path

from applications.errors import UserError


def write_whole(path, write):
    """Writes `path` by `write(temporary_path)` and moves it into place only when it is whole.

    Args:
        path: A `pathlib.Path`.
        write: Function that writes the file that it is given; the name has the ending of `path`.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    try:
        write(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_json(path, value):
    """Writes `value` to the JSON file `path`, whole or not at all."""
    write_whole(path, lambda temporary: Path(temporary).write_text(json.dumps(value, indent=1) + "\n"))


def writable_file(path):
    """Makes the folder of the file `path`, and returns the file as a `pathlib.Path`.

    Raises:
        UserError: If the folder cannot be made or written to, or there is something else than a file, which
            `write_whole` would put a file in place of.
    """
    file = Path(path)
    if file.exists() and not file.is_file():
        raise UserError(f"cannot write to {path}: it is there and not a file")
    return writable_folder(file.parent) / file.name


def writable_folder(path):
    """Makes the folder `path` and returns it as a `pathlib.Path`.

    Raises:
        UserError: If it cannot be made or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="."):
            return folder
    except OSError as error:
        raise UserError(f"cannot write to the folder {path}: {error.strerror}") from error
