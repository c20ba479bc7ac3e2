"""The one decorator of all kernels, and where their machine code is kept between processes.

Numba's own disk cache looks at the file that defines a kernel. A kernel of this package inlines functions of other
files, and its machine code depends on the register tile chosen for the host; so the stamp of every cached kernel is a
digest of *all* kernel sources and of the vector width. An edit of any of them recompiles all of them.
"""

import hashlib
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.types import unliteral
from numba.extending import register_jitable

CACHE_IS_ON = os.environ.get("RNNKERNELS_CACHE", "1") != "0"
VECTOR_BYTES_FORCED = os.environ.get("RNNKERNELS_VECTOR_BYTES", "")

# nogil: other Python threads run while a kernel does.
# error_model: a division by zero gives inf or NaN as in NumPy, and costs no branch.
# fastmath stays off: the order of sums and each rounding are part of what the package promises, and every fused
# multiply-add is asked for by name.
# _nrt: kernels make no arrays, so those that they are passed need no counts of references. These would be atomic
# additions around each call of a function, to words that all members of a team share: a step of an RNN with 32 units
# took 1.3 times as long, and training an LSTM with 64 on two threads 1.2 times (AMD EPYC, Zen 4).
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}

# What reading a damaged pickle may raise, as far as its documentation says.
DAMAGE = (pickle.PickleError, EOFError, AttributeError, ImportError, IndexError, ValueError)


before_loading: list[Callable[[bytes], None]] = []
"""Called with machine code from the disk cache before it is loaded, to provide what it calls by name."""


@cache
def source_stamp() -> str:
    """Digest of everything that decides the machine code of a kernel, apart from the processor and the signature."""
    digest = hashlib.sha256(f"{numba.__version__} {VECTOR_BYTES_FORCED} {sorted(OPTIONS.items())}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()


class _LinkedCode(CompileResultCacheImpl):
    """Machine code that may call shared routines, see `linking`."""

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        """Load machine code."""
        _, _, (code, *_) = payload[0]
        for prepare in before_loading:
            prepare(code)
        return super().rebuild(target_context, payload)


class PackageCache(FunctionCache):
    """Numba's disk cache with the stamp of the whole package; a cache that cannot be read or written is no error."""

    _impl_class = _LinkedCode

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = source_stamp()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Read machine code, or return None."""
        try:
            return super().load_overload(sig, target_context)
        except (OSError, *DAMAGE):  # unreadable, or removed while we read it: compile again
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write machine code, if that can be done."""
        with suppress(OSError):  # disk full, or the folder became read-only
            try:
                super().save_overload(sig, data)
            except DAMAGE:
                self.flush()
                super().save_overload(sig, data)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` on its first call, once per dtype, and keep the machine code on disk."""
    dispatcher = njit(**OPTIONS)(function)
    _forget_literals(dispatcher)
    if CACHE_IS_ON and not getattr(numba.config, "DISABLE_JIT", False):
        with suppress(RuntimeError, OSError):  # no folder can be written to: compile in every process
            dispatcher._cache = PackageCache(function)
    return dispatcher


def _forget_literals(dispatcher: Any) -> None:
    """Let calls from other kernels that pass a number such as 0 share the code for integers, and not compile anew."""
    template_of = dispatcher.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        return template_of([unliteral(a) for a in args], {name: unliteral(a) for name, a in kws.items()})

    dispatcher.get_call_template = get_call_template


def inlined(function: Callable[..., Any]) -> Any:
    """Compile `function` into each of its callers; for arithmetic on vectors that must stay in registers."""
    options = {**OPTIONS, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    dispatcher = njit(**options)(function)
    _forget_literals(dispatcher)
    return dispatcher


def expanded(function: Callable[..., Any]) -> Any:
    """Write `function` out in each kernel that calls it, before types are inferred: it is never compiled by itself.

    Numba optimises and translates whatever a compiled function calls along with it, again for each caller.
    """
    return njit(inline="always", **OPTIONS)(function)


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let kernels call `function`, plain arithmetic that Python calls too; it stays what it is."""
    return register_jitable(**OPTIONS)(function)
