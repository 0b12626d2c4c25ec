"""Folders of runs, and runs of many variants and seeds, one after the other; what is done is not done again."""

import json
import shutil

import keras

from applications.errors import UserError
from applications.files import writable_folder, write_json


def run_folder(path, settings):
    """Returns the folder of a run, new or stopped, with its settings written into it.

    Args:
        path: The folder; made if missing.
        settings: What decides the run, as a dictionary fit for JSON.

    Raises:
        UserError: If the folder cannot be written to, or holds a finished run or one with other settings.
    """
    folder = writable_folder(path)
    if (folder / "result.json").exists():
        raise UserError(f"{folder} holds a finished run: choose another --out, or remove it")
    if (folder / "config.json").exists():
        before = json.loads((folder / "config.json").read_text())
        odd = sorted(key for key in {*settings, *before} if before.get(key) != settings.get(key))
        if odd and any(path.name != "config.json" for path in folder.iterdir()):  # else nothing has begun yet
            raise UserError(f"{folder} holds a run with another {', '.join(odd)}: choose another --out, or remove it")
    write_json(folder / "config.json", settings)
    return folder


def run_all(variants, seeds, folder, settings, run, on_run=lambda name, state: None):
    """Runs each variant with each seed, and writes `folder/<variant>-seed<k>.json` as each run ends.

    The seeds are the outer loop, so that a comparison that is stopped has whole seeds.

    Args:
        variants: Names of variants.
        seeds: List of integers.
        folder: Where the records and the folders of the runs go.
        settings: Function of a variant and a seed that returns the settings of their run as JSON would give them back.
        run: Function of a variant, a seed and the folder of their run that returns its record; the record's `"config"`
            is what `settings` returns.
        on_run: Called with the run's name and `"skipped"`, `"started"` or its record.

    Returns:
        The list of records.

    Raises:
        UserError: If a record is there that has other settings, or `run` raises it.
    """
    folder = writable_folder(folder)
    records = []
    for seed in seeds:
        for variant in variants:
            name = f"{variant}-seed{seed}"
            path = folder / f"{name}.json"
            if path.exists():
                record = json.loads(path.read_text())
                if record["config"] != settings(variant, seed):
                    raise UserError(f"{path} is a run with other settings: choose another --out, or remove it")
                on_run(name, "skipped")
            else:
                on_run(name, "started")
                record = {**_finished(folder / name, variant, seed, settings, run), "variant": variant, "seed": seed}
                write_json(path, record)
                shutil.rmtree(folder / name)
                keras.backend.clear_session()
                on_run(name, record)
            records.append(record)
    return records


def _finished(folder, variant, seed, settings, run):
    """Returns the record of a run, which may have ended just before the experiment was stopped."""
    path = folder / "result.json"
    if path.exists():
        record = json.loads(path.read_text())
        if record["config"] == settings(variant, seed):
            return record
    return run(variant, seed, folder)


def check_variants(variants, known):
    """Refuses variants that are unknown or named twice.

    Raises:
        UserError: If one of the names `variants` is not `known`, or is there twice.
    """
    for name in variants:
        if name not in known:
            raise UserError(f"unknown variant {name!r}; known: {', '.join(dict.fromkeys(known))}")
        if variants.count(name) > 1:
            raise UserError(f"the variant {name!r} is named twice")
