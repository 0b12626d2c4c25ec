"""PyTorch's random numbers, from which Keras draws dropout there; elsewhere it draws from the model's own seeds."""

import keras


def random_state():
    """Returns the state of PyTorch's generators, fit for JSON; `None` on other backends."""
    if keras.backend.backend() != "torch":
        return None
    import torch

    return [state.tolist() for state in (torch.get_rng_state(), *torch.cuda.get_rng_state_all())]


def set_random_state(state):
    """Sets PyTorch's generators to what `random_state` returned; those of devices that are not there are left out."""
    if state is None or keras.backend.backend() != "torch":
        return
    import torch

    cpu, *devices = (torch.tensor(values, dtype=torch.uint8) for values in state)
    torch.set_rng_state(cpu)
    for index in range(min(len(devices), torch.cuda.device_count())):
        torch.cuda.set_rng_state(devices[index], index)
