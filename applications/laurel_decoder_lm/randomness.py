"""PyTorch's random numbers, from which Keras draws dropout there; elsewhere it draws from the model's own seeds."""

import keras
import numpy as np


def seed_part(seed, step, process):
    """Seeds PyTorch for the part of the training that begins after `step`; does nothing on other backends.

    So a part draws the same in a run that stopped before it, and each process draws for its part of the batch.

    Args:
        seed: Of the run.
        step: Number of steps done.
        process: Index of this process.
    """
    if keras.backend.backend() == "torch":
        import torch

        torch.manual_seed(int(np.random.SeedSequence([seed, step, process]).generate_state(1)[0]))
