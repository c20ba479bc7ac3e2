"""The one decorator of all kernels, and where their machine code is kept between processes.

Numba's own disk cache looks at the file that defines a kernel. A kernel of this package inlines functions of other
files, and its machine code depends on the register tile chosen for the host; so the stamp of a cached kernel is a
digest of the vector width and of the sources of its module, of those of all that it is made of, and of all that these
import. An edit of one of them recompiles it, and an edit of another cell does not.

Each file of machine code begins with a digest of the stamp and of the rest. Nothing of a file is looked at before that
has been compared: a pickle in which bits have changed can raise any error or take all memory, and machine code can do
anything.
"""

import gc
import hashlib
import os
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import njit, typeof
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps
from numba.core.types import unliteral
from numba.extending import register_jitable

CACHE_IS_ON = os.environ.get("RNNKERNELS_CACHE", "1") != "0"
COMPILER_IS_OFF = bool(getattr(numba.config, "DISABLE_JIT", False))  # by NUMBA_DISABLE_JIT=1
VECTOR_BYTES_FORCED = os.environ.get("RNNKERNELS_VECTOR_BYTES", "")

# nogil: other Python threads run while a kernel does.
# error_model: a division by zero gives inf or NaN as in NumPy, and costs no branch.
# fastmath stays off: the order of sums and each rounding are part of what the package promises, and every fused
# multiply-add is asked for by name.
# _nrt: kernels make no arrays, so those that they are passed need no counts of references. These would be atomic
# additions around each call of a function, to words that all members of a team share: a step of an RNN with 32 units
# took 1.3 times as long, and training an LSTM with 64 on two threads 1.2 times (AMD EPYC, Zen 4).
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}

FORK_WAIT_SECONDS = 300.0
"""How long a fork waits for another thread that compiles. The longest kernels take some ten seconds."""


before_loading: list[Callable[[bytes], None]] = []
"""Called with machine code from the disk cache before it is loaded, to provide what it calls by name."""


PACKAGE = __name__.rpartition(".")[0]
IMPORT = re.compile(rf"^from {re.escape(PACKAGE)}(?:\.(\w+) import| import ([^#\n]+))", re.MULTILINE)


@cache
def _source(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)  # none where a cell is written at a prompt
    return Path(file).read_text(encoding="utf-8") if file and Path(file).is_file() else ""


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of kernels that a module imports, by their full names."""
    lists = [one or several for one, several in IMPORT.findall(_source(module))]
    return frozenset(f"{PACKAGE}.{name.strip()}" for names in lists for name in names.split(","))


@cache
def _stamp_of_sources(modules: frozenset[str]) -> str:
    """Digest of some modules and all that they import, and of what else decides about machine code."""
    found: set[str] = set()
    new = set(modules)
    while new:
        found |= new
        new = {imported for module in new for imported in imports(module)} - found
    versions = f"{numba.__version__} {llvmlite.__version__} {VECTOR_BYTES_FORCED} {sorted(OPTIONS.items())}"
    digest = hashlib.sha256(versions.encode())
    for module in sorted(found):
        digest.update(f"{module}\n{_source(module)}".encode())
    return digest.hexdigest()


def source_stamp(function: Callable[..., Any]) -> str:
    """Digest of everything that decides the machine code of a kernel, apart from the processor and the signature.

    A pass of a cell stands in one module, and the functions of rows that it is made of in another.
    """
    parts = [value.py_func for value in function.__globals__.values() if hasattr(value, "py_func")]
    return _stamp_of_sources(frozenset([part.__module__ for part in (function, *parts)]))


class _LinkedCode(CompileResultCacheImpl):
    """Machine code that may call shared routines, see `linking`."""

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        """Load machine code."""
        _, _, (code, *_) = payload[0]
        for prepare in before_loading:
            prepare(code)
        return super().rebuild(target_context, payload)


class CodeFiles:
    """Files of machine code of one kernel, a file for each signature and processor: a digest, and what it vouches for.

    It stands in for Numba's index of such files, and is asked to load and to save by the same names.
    """

    def __init__(self, function: Callable[..., Any], folder: str, base: str) -> None:
        self._function, self._folder, self._base = function, Path(folder), base

    def load(self, key: Any) -> Any:
        """Return what was saved, or None if it was by another version of the package, or if a bit of it has changed."""
        content = self._path(key).read_bytes()
        digest, data = content[: hashlib.sha256().digest_size], content[hashlib.sha256().digest_size :]
        return pickle.loads(data) if digest == self._digest(key, data) else None

    def save(self, key: Any, data: Any) -> None:
        """Write a file, or write it anew; who reads it meanwhile sees the old one or the new one."""
        path, content = self._path(key), dumps(data)
        draft = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            draft.write_bytes(self._digest(key, content) + content)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def _path(self, key: Any) -> Path:
        return self._folder / f"{self._base}.{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc"

    def _digest(self, key: Any, data: bytes) -> bytes:
        return hashlib.sha256(f"{source_stamp(self._function)} {key!r}".encode() + data).digest()


class PackageCache(FunctionCache):
    """Numba's disk cache with files that are verified; one that cannot be read or written is no error."""

    _impl_class = _LinkedCode

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file: Any = CodeFiles(function, self.cache_path, self._impl.filename_base)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Read machine code, or return None."""
        with suppress(Exception):  # nothing that goes wrong here is worth more than to compile again
            return super().load_overload(sig, target_context)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write machine code, if that can be done."""
        with suppress(OSError):  # disk full, or the folder became read-only
            super().save_overload(sig, data)


refuse: Any = None
"""What says that nothing can be computed where Numba's compiler is switched off; given by `rnnkernels._checks`."""


def without_compiler(*_: Any) -> None:
    """Stand in for every kernel there."""
    refuse()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` on its first call, once per dtype, and keep the machine code on disk."""
    if COMPILER_IS_OFF:
        return without_compiler
    dispatcher = njit(**OPTIONS)(function)
    _forget_literals(dispatcher)
    if CACHE_IS_ON:
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
    if COMPILER_IS_OFF:
        return without_compiler
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


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no unreachable objects meanwhile.

    The compiler makes objects by the million, and each search looks at all that the process has: a tenth of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def machine_code(kernel: Any, signature: tuple[Any, ...]) -> Any:
    """Of a kernel for some types of arguments, ready to be called from Python; loaded, or compiled."""
    with _uncollected():
        return kernel.compile(signature)


class EntryPoints(dict[Any, Any]):
    """Machine code of one kernel by the dtype of its arrays, ready to be called from Python; compiled when asked for.

    Arguments must have the types and axes of the examples, which `examples` makes for a dtype; arrays may be read-only.
    Nobody looks at them to find out which code they need: that takes 0.2 us, where a call can take 2 us.
    """

    def __init__(self, kernel: Any, examples: Callable[[Any], tuple[Any, ...]]) -> None:
        super().__init__()
        self._kernel, self._examples = kernel, examples

    def __missing__(self, dtype: Any) -> Any:
        if COMPILER_IS_OFF:
            return self._kernel
        signature = tuple(typeof(example) for example in self._examples(dtype))
        self[dtype] = machine_code(self._kernel, signature)
        return self[dtype]


_gate = threading.local()


def _wait_for_compiler() -> None:
    """Before a fork: let no other thread compile.

    The child would find the locks of the compiler held, and LLVM and imports in midstream, by a thread that it does not
    have, and its next kernel would wait for ever. The wait ends, since that thread may want what this one holds.
    """
    _gate.is_closed = False
    _gate.is_closed = global_compiler_lock._lock.acquire(timeout=FORK_WAIT_SECONDS)


def _release_compiler() -> None:
    """After it, in the parent and in the child."""
    if _gate.is_closed:
        global_compiler_lock._lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_compiler, after_in_parent=_release_compiler, after_in_child=_release_compiler)
