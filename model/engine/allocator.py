"""Let a process that predicts keep the memory that it frees."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Make glibc's malloc reuse large blocks instead of returning them to the kernel. False where that cannot be.

    Feature maps are tens of megabytes; by default each is mapped anew, and its pages are faulted in and cleared, for
    every layer of every image. For the whole process, and for good: to be called by who owns the process.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
