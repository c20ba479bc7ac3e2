"""Which machine code the process has, and where from."""

import sys
from functools import cache, lru_cache
from typing import NamedTuple

from numba.core import dispatcher


class MachineCode(NamedTuple):
    """Specialisations of kernels, counted since the process began."""

    compiled: int
    loaded: int
    """From the disk cache."""


@cache
def _kernels():
    package = __name__.rpartition(".")[0]
    modules = [module for name, module in sys.modules.items() if name.startswith(package)]
    found = {
        id(value): value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, dispatcher.Dispatcher)
    }
    return [kernel for kernel in found.values() if not kernel.targetoptions.get("forceinline")]


def count_machine_code():
    """What has been compiled and loaded so far."""
    return _count(sum(len(kernel.overloads) for kernel in _kernels()))


@lru_cache(maxsize=1)
def _count(specialisations):
    """The same, which changes only with the number of specialisations."""
    stats = [kernel.stats for kernel in _kernels()]
    return MachineCode(
        sum(sum(s.cache_misses.values()) for s in stats),
        sum(sum(s.cache_hits.values()) for s in stats),
    )
