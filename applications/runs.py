"""Folders of runs, and runs of many variants and seeds, one after the other; what is done is not done again."""

import json
import shutil
from pathlib import Path

import keras

from applications.distribution import ALONE, chief_first
from applications.errors import UserError
from applications.files import writable_folder, write_json


def run_folder(path, settings, distribution=ALONE):
    """Returns the folder of a run, new or stopped, with its settings written into it.

    Args:
        path: The folder; made if missing.
        settings: What decides the run, as a dictionary fit for JSON.
        distribution: A `Distribution`, whose chief writes.

    Raises:
        UserError: If the folder cannot be written to, holds a finished run or one with other settings, or is not there
            for a process other than the chief.
    """
    folder = writable_folder(path) if distribution.is_chief else Path(path)
    if (folder / "result.json").exists():
        raise UserError(f"{folder} holds a finished run: choose another --out, or remove it")
    if (folder / "config.json").exists():
        before = json.loads((folder / "config.json").read_text())
        odd = sorted(key for key in {*settings, *before} if before.get(key) != settings.get(key))
        if odd and any(path.name != "config.json" for path in folder.iterdir()):  # else nothing has begun yet
            raise UserError(f"{folder} holds a run with another {', '.join(odd)}: choose another --out, or remove it")
    distribution.barrier()  # before one writes, all have looked
    with chief_first(distribution):
        if distribution.is_chief:
            write_json(folder / "config.json", settings)
        elif not (folder / "config.json").exists():
            raise UserError(f"process {distribution.process} cannot see {folder}: all processes need one --out")
    return folder


def run_all(variants, seeds, folder, settings, run, on_run=lambda name, state: None, distribution=ALONE):
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
        distribution: A `Distribution`, whose chief writes.

    Returns:
        The list of records.

    Raises:
        UserError: If a record is there that has other settings, or `run` raises it.
    """
    folder = writable_folder(folder) if distribution.is_chief else Path(folder)
    records = []
    for seed in seeds:
        for variant in variants:
            name = f"{variant}-seed{seed}"
            path = folder / f"{name}.json"
            # A run may have ended just before the experiment was stopped.
            written, ended = _record(path), _record(folder / name / "result.json")
            distribution.barrier()  # before one writes or removes, all have looked
            if written is not None:
                if written["config"] != settings(variant, seed):
                    raise UserError(f"{path} is a run with other settings: choose another --out, or remove it")
                on_run(name, "skipped")
                records.append(written)
                continue
            on_run(name, "started")
            if ended is None or ended["config"] != settings(variant, seed):
                ended = run(variant, seed, folder / name)
            records.append({**ended, "variant": variant, "seed": seed})
            if distribution.is_chief:
                write_json(path, records[-1])
                shutil.rmtree(folder / name)
            keras.backend.clear_session()
            on_run(name, records[-1])
    return records


def _record(path):
    return json.loads(path.read_text()) if path.exists() else None
