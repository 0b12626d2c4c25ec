"""Mixers and joins of a user's own, from a Python file."""

import hashlib
import re
import sys
import types
from pathlib import Path

from applications.errors import UserError
from applications.peers import PEERS
from benchmarks.mad.architectures import ARCHITECTURES, MIXERS
from keras_laurel.joins import WORDS

_loaded = set()


def load_plugin(path):
    """Makes known what a Python file has in its dictionaries `MIXERS` and `JOINS`, in this process.

    Args:
        path: Of the file. In `MIXERS` are functions of the length of a model's inputs, `kernel_initializer=` and
            `name=` that return a layer of `(batch, length, 128)` to the same; in `JOINS` functions of `rank=`,
            `num_activations=` and `name=` that return a layer of `[x, fx, *previous]`, see `keras_laurel.History`.

    Returns:
        A short hash of the file, which tells its versions apart.

    Raises:
        UserError: If there is no such file, or a name is taken or would be read as something else.
    """
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the plugin {path}: {error.strerror}") from None
    version = hashlib.sha256(source).hexdigest()[:12]
    if version in _loaded:
        return version
    # An import might take the bytecode of an earlier version, of the same size and second.
    module = types.ModuleType(f"mad_plugin_{version}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses and pickle look
    exec(compile(source, path, "exec"), vars(module))
    mixers, joins = getattr(module, "MIXERS", {}), getattr(module, "JOINS", {})
    if not mixers and not joins:
        raise UserError(f"the plugin {path} has neither MIXERS nor JOINS, dictionaries of names to functions")
    for name in (*mixers, *joins):
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or "-then-" in name:
            raise UserError(f"the plugin {path} has the name {name!r}; take lower case letters, digits, - and _")
    for name in [*(set(mixers) & {*MIXERS, *ARCHITECTURES}), *(set(joins) & {*WORDS, *PEERS})]:
        raise UserError(f"the plugin {path} has the name {name!r}, which is taken")
    MIXERS.update(mixers)
    PEERS.update(joins)
    _loaded.add(version)
    return version
