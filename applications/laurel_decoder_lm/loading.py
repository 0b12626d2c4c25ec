"""Runs that have ended or stopped, for other programs than the one that trains."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras_hub

from applications.errors import UserError
from applications.laurel_decoder_lm import configs, tokenization
from applications.laurel_decoder_lm.checkpoints import Checkpoints, restore
from applications.laurel_decoder_lm.model import build, model_variables, scorer


def load_config(folder):
    """Returns the `Config` of the run in `folder`.

    Raises:
        UserError: If there is none, or it is of another version of this program.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise UserError(f"there is no run in {folder}")
    settings = json.loads(path.read_text())
    odd = {field.name for field in dataclasses.fields(configs.Config)} ^ set(settings)
    if odd:
        raise UserError(f"{path} is of another version of this program: it differs in {', '.join(sorted(odd))}")
    return configs.Config(**settings)


def load_model(folder) -> Any:
    """Returns the `keras_hub.models.CausalLM` of a run: its preset, or that of the last checkpoint if it has not ended.

    Args:
        folder: Folder of the run.

    Raises:
        UserError: If there is no run, it has no checkpoint yet, or its model does not fit its tokenizer.
    """
    config, folder = load_config(folder), Path(folder)
    if (folder / "result.json").exists():
        return _preset(folder / "preset", tokenization.load(config, None, folder))
    checkpoint = Checkpoints(folder / "checkpoints").last()
    if checkpoint is None:
        raise UserError(f"the run in {folder} has no checkpoint yet")
    lm = build(config, tokenization.load(config, None, folder))
    restore(checkpoint, model_variables(scorer(lm, config)))
    return lm


def _preset(path, tokenizer):
    if not (path / "config.json").exists():
        raise UserError(f"there is no model in {path}")
    lm = keras_hub.models.CausalLM.from_preset(str(path))
    known, used = lm.backbone.vocabulary_size, tokenizer.vocabulary_size()
    if known != used:
        raise UserError(
            f"the model in {path} has a vocabulary of {known} tokens, but the tokenizer of the run has {used}"
        )
    return lm
