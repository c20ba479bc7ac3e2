"""Where calls leave what they did, while somebody profiles them.

Nothing is recorded while there are no listeners; then a call costs one test more. `rnnkernels.profiling` makes sense
of the records.
"""

import dataclasses
import functools
import inspect
import math
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from rnnkernels.kernels import trace
from rnnkernels.kernels.inventory import count_machine_code

P = ParamSpec("P")
R = TypeVar("R")

NO_TRACE = np.zeros((0, 0, 0), np.int64)


class Array(NamedTuple):
    """What is remembered of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    nbytes: int


class Work(NamedTuple):
    """What the kernels of a recurrent function had to do."""

    cell: str
    """Key of the cell."""
    sizes: tuple[int, int, int, int, int]
    """Sequences as the kernels saw them, steps of the longest, inputs, hidden units, and what projects them."""
    rows: int
    """Steps of all sequences together."""
    returned: int
    """Rows of hidden states that are returned."""
    is_again: bool = False
    """Whether a backward pass ran forward once more."""


@dataclasses.dataclass
class Record:
    """One call of a public function or method; times in ns of `time.perf_counter_ns`."""

    name: str
    thread: tuple[int, str]
    begin_ns: int = 0
    end_ns: int = 0
    traces: list[np.ndarray] = dataclasses.field(default_factory=list)
    """Of each kernel run, see `rnnkernels.kernels.trace`."""
    arguments: dict[str, Array] = dataclasses.field(default_factory=dict)
    """By name; the fields of a cache as "cache.field"."""
    results: list[Array] = dataclasses.field(default_factory=list)
    kept: dict[str, Array] = dataclasses.field(default_factory=dict)
    """Arrays of the cache that are not the caller's own."""
    peak_bytes: int | None = None
    earlier_peak: int = 0
    """Most memory of the process before a call that was made inside this one, which counts from its own beginning."""
    compiled: int = 0
    loaded: int = 0
    work: "Work | None" = None
    """Of a recurrent function."""
    recording_ns: int = 0
    """What it took to make this, before and after the call."""


listeners: tuple[list[Record], ...] = ()

_signature = functools.cache(inspect.signature)
_call = threading.local()
_lock = threading.Lock()


def listen(records: list[Record]) -> None:
    """Append the record of each call that begins from now on and ends."""
    global listeners
    with _lock:
        listeners = (*listeners, records)


def ignore(records: list[Record]) -> None:
    """End what `listen` began."""
    global listeners
    with _lock:
        listeners = tuple(other for other in listeners if other is not records)


def profiled(function: Callable[P, R]) -> Callable[P, R]:
    """Let calls of a public function be recorded."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not listeners:
            return function(*args, **kwargs)

        def given() -> dict[str, Any]:
            return _signature(function).bind(*args, **kwargs).arguments

        return recorded(function.__name__, functools.partial(function, *args, **kwargs), given)

    return call


def recorded(name: str, function: Callable[[], R], given: Callable[[], Mapping[str, Any]]) -> R:
    """Call a function while somebody listens; `given` finds its arguments by name, when it has returned."""
    recording_ns = -time.perf_counter_ns()
    hearing = listeners
    record = Record(name, _thread())
    outer = getattr(_call, "record", None)  # a signal handler or an `__array__` method calls in the midst of a call
    code_before = count_machine_code()
    memory_before = 0
    if tracemalloc.is_tracing():
        memory_before, peak = tracemalloc.get_traced_memory()
        if outer:
            outer.earlier_peak = max(outer.earlier_peak, peak)
        tracemalloc.reset_peak()
    record.begin_ns = time.perf_counter_ns()
    recording_ns += record.begin_ns
    _call.record = record
    try:
        result = function()
    finally:
        record.end_ns = time.perf_counter_ns()
        _call.record = outer
    if tracemalloc.is_tracing():
        peak = max(tracemalloc.get_traced_memory()[1], record.earlier_peak)
        record.peak_bytes = peak - memory_before - sum(t.nbytes for t in record.traces)
    code = count_machine_code()
    record.compiled = code.compiled - code_before.compiled
    record.loaded = code.loaded - code_before.loaded
    _note_arrays(record, given(), result)
    record.recording_ns = recording_ns + time.perf_counter_ns() - record.end_ns
    for records in hearing:
        records.append(record)
    return result


def add_record(name: str, begin_ns: int, end_ns: int, work: Work, given: Mapping[str, Any], result: np.ndarray) -> None:
    """Record a call that has just ended, and looked at the time itself: what takes 2 us cannot pay for a wrapper."""
    record = Record(name, _thread(), begin_ns, end_ns, work=work)
    if tracemalloc.is_tracing():
        record.peak_bytes = result.nbytes
    _note_arrays(record, given, result)
    record.recording_ns = time.perf_counter_ns() - record.end_ns
    for records in listeners:
        records.append(record)


def _thread() -> tuple[int, str]:
    thread = threading.current_thread()
    return thread.ident or 0, thread.name


def _note_arrays(record: Record, arguments: Mapping[str, Any], result: Any) -> None:
    given = dict(_arrays(arguments))
    record.arguments = {name: _array(a.shape, a.dtype) for name, a in given.items()}
    results = (*result, *vars(result).values()) if hasattr(result, "__dict__") else result
    results = results if isinstance(results, tuple | list) else (results,)
    record.results = [_array(a.shape, a.dtype) for a in results if isinstance(a, np.ndarray)]
    for cache in results:
        if not isinstance(cache, np.ndarray) and (fields := _fields(cache)):
            record.kept = {
                name: _array(a.shape, a.dtype)
                for name, a in fields
                if not any(np.may_share_memory(a, other) for other in given.values())
            }


@functools.lru_cache(maxsize=1024)
def _array(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """What is remembered, one object for all arrays alike: calls are often many and of few sizes."""
    return Array(shape, dtype, math.prod(shape) * dtype.itemsize)


def _fields(value: Any) -> list[tuple[str, np.ndarray]]:
    """Fields of a cache, none of anything else."""
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return list(zip(value._fields, value, strict=True)) if hasattr(value, "_fields") else []


def _arrays(values: Mapping[str, Any]) -> list[tuple[str, np.ndarray]]:
    """Arrays among values, and in dicts and the fields of caches; numbers and sequences of numbers as arrays."""
    found = []
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            found.append((name, value))
        elif fields := list(value.items()) if isinstance(value, Mapping) else _fields(value):
            found += [(f"{name}.{field}", array) for field, array in fields]
        elif value is not None:
            found.append((name, np.asarray(value)))
    return found


def tell_work(work: Work) -> None:
    """Say what the call that this thread is in does, if it is recorded; parts of it say so later, which is no news."""
    record = getattr(_call, "record", None)
    if record is not None and record.work is None:
        record.work = work


def new_trace(members: int, chunks: int) -> np.ndarray:
    """Return room for the times of a kernel run of the call that this thread is in; none if it is not recorded."""
    record = getattr(_call, "record", None)
    if record is None:
        return NO_TRACE
    record.traces.append(np.zeros((members, chunks, trace.WORDS), np.int64))
    return record.traces[-1]
