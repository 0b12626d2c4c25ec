"""What a step takes of a device's memory beside what is there before and after it: activations, gradients, scratch."""

import contextlib

import keras


@contextlib.contextmanager
def first_step():
    """Measures the first call of a step, which must run inside.

    Yields:
        A function of the step, to be called afterwards, that returns the bytes: what the compiled program sets aside
        under JAX; the highest that a further step reaches under PyTorch on a GPU; else `None`, as nothing tells.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        before = {id(program) for program in _programs()}
        yield lambda step: _largest(program for program in _programs() if id(program) not in before)
    elif backend == "torch":
        yield _torch_peak
    else:
        yield lambda step: None


def _programs():
    import jax

    return jax.local_devices()[0].client.live_executables()


def _largest(programs):
    # The step's own program: beside it a first step compiles a few that make or copy a weight.
    sizes = [program.get_compiled_memory_stats().temp_size_in_bytes for program in programs]
    return max(sizes, default=None)


def _torch_peak(step):
    import torch

    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
