"""Which machine code the process has, and where from; and what users are told while it is made."""

import logging
import sys
import time
from functools import cache, lru_cache
from typing import NamedTuple

import llvmlite
import numba
from numba.core import dispatcher, event

from rnnkernels.kernels.jit import CACHE_IS_ON

logger = logging.getLogger("rnnkernels")

NOTICE_SECONDS = 1.0
"""Compilation that takes longer is mentioned, once per process."""


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
    return [kernel for kernel in found.values() if not _is_inlined(kernel)]


@cache
def _overloads():
    return [kernel.overloads for kernel in _kernels()]


def count_machine_code():
    """What has been compiled and loaded so far."""
    return _count(sum(map(len, _overloads())))


@lru_cache(maxsize=1)
def _count(specialisations):
    """The same, which changes only with the number of specialisations."""
    stats = [kernel.stats for kernel in _kernels()]
    return MachineCode(
        sum(sum(s.cache_misses.values()) for s in stats),
        sum(sum(s.cache_hits.values()) for s in stats),
    )


def compilers():
    """Versions of what makes the machine code."""
    return {"numba": numba.__version__, "llvmlite": llvmlite.__version__}


def code_folder():
    """Folder of the machine code on disk; None if none is kept."""
    return next((kernel.stats.cache_path for kernel in _kernels() if kernel.stats.cache_path), None)


class _Notices(event.Listener):
    """Says once that kernels are being compiled, and once that they cannot be kept."""

    def __init__(self):
        self._depth = self._began = self._spent = 0.0
        self._silent = self._homeless_silent = False

    def on_start(self, event):
        if _is_ours(event):
            if self._depth == 0:
                self._began = time.perf_counter()
            self._depth += 1

    def on_end(self, event):
        if not _is_ours(event) or self._depth == 0:
            return
        self._depth -= 1
        if self._depth:
            return
        self._spent += time.perf_counter() - self._began
        kept = event.data["dispatcher"].stats.cache_path
        if CACHE_IS_ON and not kept and not self._homeless_silent and not _is_inlined(event.data["dispatcher"]):
            self._homeless_silent = True
            logger.warning(
                "No folder can be written to in which to keep machine code: each process compiles its kernels anew, "
                "which takes seconds. Name one in the environment variable NUMBA_CACHE_DIR, or run "
                "`python -m rnnkernels compile` once as a user who may write to the package."
            )
        if self._spent > NOTICE_SECONDS and not self._silent:
            self._silent = True
            logger.warning(
                "Kernels are being compiled for this processor, which takes seconds the first time%s. "
                "`python -m rnnkernels compile` does it ahead of time.",
                f"; they are kept in {kept}" if kept else "",
            )


def _is_ours(event):
    return event.data["dispatcher"].py_func.__module__.startswith(__name__.rpartition(".")[0])


def _is_inlined(kernel):
    """Whether it is compiled into its callers, which may be those of users."""
    return kernel.targetoptions.get("forceinline") or "<locals>" in kernel.py_func.__qualname__


event.register("numba:compile", _Notices())
