"""The process's memory: freed pieces are kept while it learns, and given back when asked."""

import ctypes
import gc
import platform
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed() -> None:
    """Tell glibc not to return freed memory: getting it back costs a page fault for every 4 KB."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def give_back() -> None:
    """Return what is free. After environments: they are large, they end as cycles that wait for
    the garbage collector, and what they leave is in pieces of which the next ones use others."""
    gc.collect()
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
