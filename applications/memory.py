"""Keeps memory that is freed, for the steps of a small model on a CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory():
    """Tells glibc's malloc to keep freed blocks; does nothing elsewhere.

    XLA allocates a step's temporaries anew at each step, and glibc returns blocks above 32 MiB to the system at once.
    A model just above that size then pays for thousands of page faults a step (half as much again, as measured), one
    just below it does not, and a comparison of step times would measure that instead of the models.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
