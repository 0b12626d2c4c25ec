"""Runs of many variants and seeds, one after the other; what is done is not done again."""

import dataclasses
import json
import shutil

import keras

from applications.errors import UserError
from applications.files import writable_folder, write_whole
from applications.laurel_resnet50 import configs, train


def experiment(config, variants, seeds, folder, origin, on_run=lambda name, state: None):
    """Trains each variant with each seed, and writes `folder/<variant>-seed<k>.json` as each run ends.

    The seeds are the outer loop, so that a comparison that is stopped has whole seeds.

    Args:
        config: The `Config` that the runs share.
        variants: Names of variants; see `configs.with_variant`.
        seeds: List of integers.
        folder: Where the records and the folders of the runs go.
        origin: See `train.run`.
        on_run: Called with the run's name and `"skipped"`, `"started"` or its record.

    Returns:
        The list of records.
    """
    for variant in variants:
        if variant not in (*configs.VARIANTS, *train.WORDS):
            known = dict.fromkeys((*configs.VARIANTS, *train.WORDS))
            raise UserError(f"unknown variant {variant!r}; known: {', '.join(known)}")
    folder = writable_folder(folder)
    records = []
    for seed in seeds:
        for variant in variants:
            name = f"{variant}-seed{seed}"
            path = folder / f"{name}.json"
            settings = dataclasses.replace(configs.with_variant(config, variant), seed=seed)
            if path.exists():
                record = json.loads(path.read_text())
                if record["config"] != configs.as_json(settings):
                    raise UserError(f"{path} is a run with other settings: choose another --out, or remove it")
                on_run(name, "skipped")
            else:
                on_run(name, "started")
                record = {**train.run(settings, folder / name, origin), "variant": variant, "seed": seed}
                write_whole(path, lambda path, record=record: train.write_json(record, path))
                shutil.rmtree(folder / name)
                keras.backend.clear_session()
                on_run(name, record)
            records.append(record)
    return records
