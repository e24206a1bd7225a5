"""How the C library gives memory back."""

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory(trim: int, mapped: int, pad: int) -> None:
    """Give the heap's end back to the kernel only in pieces of ``trim`` bytes, ask for ``pad`` more than is needed, and
    map only what is larger than ``mapped`` on its own (mallopt(3)). A C library without it stays as it is.

    For a process that makes and frees buffers of a megabyte all the time: by itself glibc returns each one at once, and
    the kernel clears its pages again for the next.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_M_TRIM_THRESHOLD, trim), (_M_MMAP_THRESHOLD, mapped), (_M_TOP_PAD, pad)):
            mallopt(parameter, value)
