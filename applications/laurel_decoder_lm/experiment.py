"""Runs of many variants and seeds, one after the other; what is done is not done again."""

import dataclasses

from applications.distribution import ALONE
from applications.errors import UserError
from applications.joins import JOINS
from applications.laurel_decoder_lm import configs, train
from applications.laurel_decoder_lm.model import check
from applications.runs import run_all
from applications.variants import check_variants


def experiment(config, variants, seeds, folder, origin, on_run=lambda name, state: None, distribution=ALONE):
    """Trains each variant with each seed; see `run_all`.

    Args:
        config: The `Config` that the runs share.
        variants: Names of variants; see `configs.with_variant`.
        seeds: List of integers.
        folder: Where the records and the folders of the runs go.
        origin: See `train.run`.
        on_run: See `run_all`.
        distribution: See `train.run`.

    Returns:
        The list of records.

    Raises:
        UserError: If a variant is unknown, there are no held-out documents to compare by, or a run raises it.
    """
    check(config)
    check_variants(variants, JOINS)
    for variant in variants:
        check(configs.with_variant(config, variant))
    if not config.held_out:
        raise UserError("held_out must be above 0: an experiment compares by the held-out documents")

    def settings(variant, seed):
        return dataclasses.replace(configs.with_variant(config, variant), seed=seed)

    return run_all(
        variants,
        seeds,
        folder,
        lambda *which: configs.as_json(settings(*which)),
        lambda variant, seed, folder: train.run(settings(variant, seed), folder, origin, distribution),
        on_run,
        distribution,
    )
