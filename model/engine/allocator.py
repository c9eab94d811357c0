"""Let a process that predicts, or decodes, keep the memory that it frees."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def keep_freed_memory(block: int = 2**30, free: int = 2**31 - 1) -> bool:
    """Make glibc's malloc reuse large blocks instead of returning them to the kernel. False where that cannot be.

    block: bytes of the largest block that is reused. free: bytes at the end of the heap that are not returned.

    Feature maps are tens of megabytes; by default each is mapped anew, and its pages are faulted in and cleared, for
    every layer of every image. For the whole process, and for good: to be called by who owns the process.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, block)) and bool(mallopt(_M_TRIM_THRESHOLD, free))
