"""Where the time of calls goes, seen from inside.

    with rnnkernels.profiling.profile() as profile:
        h, cache = rnnkernels.lstm_forward(x, h0, Wx, Wh, b)
    print(profile)

The kernels of recurrent layers take the time of each phase of each chunk of steps on each thread:

    pack         until the kernel of the pass starts: checks, allocation, packing of weights; and its compilation
    gather       copying inputs, and gradients from outside, into time-major rows
    project      x @ Wx of a chunk
    recur        h @ Wh, or dz @ Wh.T, of each step
    cell         activation functions and states, or their derivatives
    accumulate   dWx, dWh, db, dx of a chunk
    scatter      copying hidden states to the result
    wait         for other threads
    wrapper      the rest: between kernel runs, and after the last one

Calls of layers are recorded under the names of their methods, `LSTM.forward`, one for each layer and direction of a
stack; so are those of streams, `LSTMStream.step`. The latter and all other functions have no phases. What a function
that Numba compiled does with a stream is not seen. Nothing is recorded outside of a profile.
"""

import json
import math
import time
import tracemalloc
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import Any, NamedTuple, Self

import numpy as np

from rnnkernels import _recorder as recorder
from rnnkernels._checks.cells import Sizes
from rnnkernels._costs import Cost, backward_costs, forward_costs, together
from rnnkernels._sequence import plan_backward, plan_forward
from rnnkernels.kernels import trace
from rnnkernels.kernels.cell import cells

__all__ = ["CHUNK", "KERNEL_PHASES", "PHASES", "Call", "Phase", "Profile", "profile"]

KERNEL_PHASES = trace.PHASES
PHASES = ("pack", *KERNEL_PHASES, "wrapper")

CHUNK = np.dtype(
    [
        ("thread", np.int64),
        ("begin", np.float64),
        ("start", np.int64),
        ("steps", np.int64),
        ("timed", np.bool_),
        ("seconds", np.float64, len(KERNEL_PHASES)),
    ]
)
"""A chunk of steps on one thread of a call: number of the thread, seconds since the profile began, first step, number
of steps, whether its phases were timed, and the time in each of `KERNEL_PHASES`. Of a long call a sample of the chunks
is timed; the others took, as far as one can tell, the same shares of the time until the next chunk."""


@dataclass(frozen=True, repr=False)
class Phase:
    """A phase of a call."""

    name: str
    seconds: float
    """On the thread that called; all phases of a call add up to its time."""
    thread_seconds: tuple[float, ...]
    """On each thread that took part; empty for what is not divided."""
    flops: int
    """Floating-point operations of matrix products, of all threads together."""
    bytes: int
    """Bytes read and written, of all threads together; most of them come from caches."""
    limit_seconds: float
    """Shortest time on this machine with as many threads: see `rnnkernels.explain`. 0 where there is no such limit."""

    @property
    def gflops(self) -> float:
        """Billions of floating-point operations per second."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def fraction(self) -> float | None:
        """Fraction of the machine's limit that it reaches."""
        return self.limit_seconds / self.seconds if self.seconds and self.limit_seconds else None

    def __repr__(self) -> str:
        return f"Phase({self.name!r}, {time_text(self.seconds)})"

    def __str__(self) -> str:
        facts = [time_text(self.seconds)]
        facts += [f"{self.gflops:.1f} GFLOP/s"] if self.flops else []
        facts += [f"{self.fraction:.0%} of the limit"] if self.fraction else []
        return f"{self.name}: {', '.join(facts)}"

    def _repr_html_(self) -> str:
        return f"<code>{escape(str(self))}</code>"


@dataclass(frozen=True, eq=False, repr=False)
class Call:
    """A call of a function of the package, or of a method of a layer or stream."""

    name: str
    """As in `lstm_forward`, `LSTM.forward`, `LSTMStream.step`."""
    sizes: dict[str, int]
    dtype: str
    thread: str
    """Name of the Python thread that called."""
    thread_id: int
    begin: float
    """Seconds since the profile began."""
    seconds: float
    threads: int
    """Most threads that it was to have."""
    joined: int
    """Threads that took part."""
    flops: int
    bytes: int
    limit_seconds: float
    phases: tuple[Phase, ...]
    chunks: np.ndarray
    """Records of dtype `CHUNK`, in the order of time for each thread."""
    kept_bytes: int
    """Of the cache that it returned, without what belongs to the caller."""
    result_bytes: int
    peak_bytes: int | None
    """Most memory that arrays had during the call beyond what there was, if the profile watches memory."""
    compiled: int
    """Kernels that were compiled in the process meanwhile."""
    loaded: int
    """Kernels whose machine code was loaded from the disk cache meanwhile."""
    recording_seconds: float
    """What it took to record the call, before and after it; no part of `seconds`."""

    @property
    def gflops(self) -> float:
        """Billions of floating-point operations per second."""
        return self.flops / self.seconds / 1e9

    @property
    def fraction(self) -> float | None:
        """Fraction of the machine's limit that it reaches."""
        return self.limit_seconds / self.seconds if self.limit_seconds else None

    @property
    def phase(self) -> dict[str, Phase]:
        """The phases by name."""
        return {phase.name: phase for phase in self.phases}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
        return f"Call({self.name!r}, {sizes}, {self.dtype}, {time_text(self.seconds)})"

    def __str__(self) -> str:
        return _table_lines([self])

    def _repr_html_(self) -> str:
        return _html_of([self])

    @property
    def steps_ns(self) -> tuple[np.ndarray, np.ndarray]:
        """First steps of the chunks of the calling thread, in the order of time, and ns per step in each of them."""
        mine = self.chunks[self.chunks["thread"] == 0]
        return mine["start"], mine["seconds"].sum(axis=1) / mine["steps"] * 1e9

    def to_dict(self) -> dict[str, Any]:
        """The call as numbers, strings, lists and dictionaries."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("phases", "chunks")}
        phases = [asdict(phase) | {"gflops": phase.gflops, "fraction": phase.fraction} for phase in self.phases]
        names = CHUNK.names or ()
        chunks = {name: self.chunks[name].tolist() for name in names}
        return record | {"gflops": self.gflops, "fraction": self.fraction, "phases": phases, "chunks": chunks}


class Profile:
    """Calls that were recorded; see `profile`."""

    def __init__(self, memory: bool) -> None:
        self._memory = memory
        self._stops_tracing = False
        self._records: list[recorder.Record] = []
        self._calls: list[Call] = []
        self._begin = self._end = _Moment(0, 0)

    def __enter__(self) -> Self:
        self._stops_tracing = self._memory and not tracemalloc.is_tracing()
        if self._stops_tracing:
            tracemalloc.start()
        self._begin = _now()
        recorder.listen(self._records)
        return self

    def __exit__(self, *_: object) -> None:
        recorder.ignore(self._records)
        self._end = _now()
        if self._stops_tracing:
            tracemalloc.stop()

    @property
    def calls(self) -> list[Call]:
        """The calls in the order in which they began; complete when the profile has ended."""
        if len(self._calls) != len(self._records):
            clock = _Clock.between(self._begin, self._end if self._end.ns else _now())
            records = sorted(self._records, key=lambda record: record.begin_ns)
            self._calls = [_make_call(record, clock) for record in records]
        return self._calls

    def table(self) -> str:
        """Calls of the same kind in one line each, with means, and a line for each of their phases."""
        return "\n".join(map(_table_lines, self._kinds())) or "No call was recorded."

    __str__ = table

    def __repr__(self) -> str:
        total = time_text(sum(call.seconds for call in self.calls))
        return f"Profile({len(self.calls)} call{'s' * (len(self.calls) != 1)}, {total})"

    def _repr_html_(self) -> str:
        return "".join(map(_html_of, self._kinds())) or "<p>No call was recorded.</p>"

    def _kinds(self) -> list[list[Call]]:
        """Calls of the same function, sizes, dtype and threads together."""
        kinds: dict[tuple[Any, ...], list[Call]] = {}
        for call in self.calls:
            kind = call.name, *call.sizes.items(), call.dtype, call.threads, call.kept_bytes
            kinds.setdefault(kind, []).append(call)
        return list(kinds.values())

    def to_dict(self) -> dict[str, Any]:
        """All that was recorded, ready for `json.dump`."""
        return {"phases": KERNEL_PHASES, "calls": [call.to_dict() for call in self.calls]}

    def chrome_trace(self) -> dict[str, Any]:
        """Events for the trace viewers of Chrome and Perfetto, ready for `json.dump`.

        Each thread has a track with its calls, their chunks of steps, and in each chunk its phases. Phases alternate
        from step to step; a chunk shows the sum of each, one after the other.
        """
        events: list[dict[str, Any]] = []
        tracks: dict[tuple[int, int], int] = {}
        for call in self.calls:
            for member in range(max(call.joined, 1)):
                track = tracks.setdefault((call.thread_id, member), len(tracks) + 1)
                if track == len(tracks):
                    name = f"{call.thread}, helper {member}" if member else call.thread
                    events.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": track, "args": {"name": name}})
                events += _trace_events(call, member, track)
        return {"traceEvents": events, "displayTimeUnit": "ns"}

    def save_chrome_trace(self, path: Any) -> None:
        """Write `chrome_trace` to a file, for https://ui.perfetto.dev or chrome://tracing."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.chrome_trace(), file)


def profile(*, memory: bool = False) -> Profile:
    """Record the calls of the package's functions, layers and streams while a block runs, from all Python threads.

    Parameters
    ----------
    memory : bool, default False
        Whether to record the most memory of each call too. Python's `tracemalloc` counts it, which makes small calls
        slower, and cannot tell concurrent calls apart.

    Returns
    -------
    Profile
        A context manager; its `calls`, `table()`, `to_dict()` and `chrome_trace()` are complete when it has ended.

    Notes
    -----
    Limits of the machine are measured when calls are looked at, once per process; that takes some 10 ms for each.

    Examples
    --------
    >>> import numpy as np
    >>> import rnnkernels
    >>> with rnnkernels.profiling.profile() as profile:
    ...     scores, _ = rnnkernels.temporal_affine_forward(np.ones((2, 3, 4)), np.ones((4, 5)), np.ones(5))
    >>> [call] = profile.calls
    >>> call.name, call.sizes, call.flops
    ('temporal_affine_forward', {'N': 2, 'T': 3, 'D': 4, 'M': 5}, 240)
    """
    return Profile(memory)


class _Moment(NamedTuple):
    ns: int
    ticks: int


def _now() -> _Moment:
    """One moment on Python's clock and on that of the kernels: of a few tries, the one with the least between them."""
    tries = []
    for _ in range(5):
        before = time.perf_counter_ns()
        ticks = trace.read_clock()
        after = time.perf_counter_ns()
        tries.append((after - before, _Moment((before + after) // 2, ticks)))
    return min(tries)[1]


class _Clock(NamedTuple):
    """From ticks and ns to seconds since a profile began."""

    origin: _Moment
    tick_seconds: float

    @classmethod
    def between(cls, begin: _Moment, end: _Moment) -> Self:
        """Calibrated by two moments."""
        return cls(begin, (end.ns - begin.ns) / max(end.ticks - begin.ticks, 1) / 1e9)

    def of_ns(self, ns: int) -> float:
        """Seconds since the profile began, of Python's clock."""
        return (ns - self.origin.ns) / 1e9

    def of_ticks(self, ticks: Any) -> Any:
        """Seconds since the profile began, of the clock of the kernels."""
        return (ticks - self.origin.ticks) * self.tick_seconds


def _make_call(record: recorder.Record, clock: _Clock) -> Call:
    sizes, flops = _describe(record)
    arrays = *record.results, *record.arguments.values()
    dtype = arrays[0].dtype if arrays else np.dtype(np.float64)
    threads = max((len(t) for t in record.traces), default=1)
    chunks = _chunks(record.traces, clock.of_ns(record.end_ns), clock)
    joined = 1 + int(chunks["thread"].max(initial=0))
    n_bytes = sum(array.nbytes for array in (*record.arguments.values(), *record.results, *record.kept.values()))
    seconds = (record.end_ns - record.begin_ns) / 1e9
    begin = clock.of_ns(record.begin_ns)
    phases: tuple[Phase, ...] = ()
    limit_seconds = 0.0
    costs = _costs(record, dtype, threads) or {"": Cost(flops=flops, bytes=n_bytes)}
    flops, n_bytes = sum(cost.flops for cost in costs.values()), sum(cost.bytes for cost in costs.values())
    if record.traces:
        phases = _phases(costs, chunks, begin, seconds, dtype, joined)
        limit_seconds = sum(phase.limit_seconds for phase in phases)
    else:
        limit_seconds = sum(cost.limit_seconds(dtype, 1) for cost in costs.values())
    return Call(
        name=record.name,
        sizes=sizes,
        dtype=dtype.name,
        thread=record.thread[1],
        thread_id=record.thread[0],
        begin=begin,
        seconds=seconds,
        threads=threads,
        joined=joined,
        flops=flops,
        bytes=n_bytes,
        limit_seconds=limit_seconds,
        phases=phases,
        chunks=chunks,
        kept_bytes=sum(array.nbytes for array in record.kept.values()),
        result_bytes=sum(array.nbytes for array in record.results),
        peak_bytes=record.peak_bytes,
        compiled=record.compiled,
        loaded=record.loaded,
        recording_seconds=record.recording_ns / 1e9,
    )


def _describe(record: recorder.Record) -> tuple[dict[str, int], int]:
    """Sizes of a call, and the operations of its products where they are not counted by phase."""
    shapes = {name.removeprefix("cache."): array.shape for name, array in record.arguments.items()}
    layer, _, direction = record.name.rpartition("_")
    passes = 2 if direction == "backward" else 1
    if "x" not in shapes:
        return {"size": sum(math.prod(shape) for shape in shapes.values() if shape)}, 0
    if "Wh" in shapes:
        (*batch, D), H = shapes["x"], shapes["Wh"][0]
        N, T = batch if len(batch) == 2 else (*batch, 1, 1)[:2]
        if record.work is not None and record.work.sizes[4] > 0:
            *_, H, P = record.work.sizes
            return {"N": N, "T": T, "D": D, "H": H, "P": P}, 0
        return {"N": N, "T": T, "D": D, "H": H}, 0
    if layer == "temporal_affine":
        (N, T, D), M = shapes["x"], shapes["w"][1]
        return {"N": N, "T": T, "D": D, "M": M}, 2 * passes * N * T * D * M
    if layer == "word_embedding":
        return dict(zip("NTVD", (*shapes["x"], *shapes["W"]), strict=True)), 0
    if record.name == "temporal_affine_softmax_loss":
        (N, T, D), V = shapes["x"], shapes["w"][1]
        return {"N": N, "T": T, "D": D, "V": V}, 2 * (3 if record.results else 1) * N * T * D * V
    if record.name == "temporal_softmax_loss":
        return dict(zip("NTV", shapes["x"], strict=True)), 0
    return {"size": math.prod(shapes["x"])}, 0


def _costs(record: recorder.Record, dtype: np.dtype, threads: int) -> dict[str, Cost]:
    work = record.work
    if work is None:
        return {}
    cell, counts = cells[work.cell], Sizes(*work.sizes)
    forward = plan_forward(cell, counts, dtype, threads)
    if not record.name.endswith("backward"):
        return forward_costs(counts, cell, dtype, forward, bool(record.kept), work.rows, work.returned)
    costs = backward_costs(counts, cell, dtype, plan_backward(cell, counts, dtype, threads), work.rows)
    return together(costs, forward_costs(counts, cell, dtype, forward, True, work.rows, 0)) if work.is_again else costs


def _chunks(traces: list[np.ndarray], end: float, clock: _Clock) -> np.ndarray:
    """Records of dtype `CHUNK` from the traces of the kernel runs of a call that ended at `end`."""
    parts = []
    for times in reversed(traces):
        threads, numbers = np.nonzero(times[:, :, trace.BEGIN])
        found = times[threads, numbers]
        part = np.zeros(len(found), CHUNK)
        part["thread"] = threads
        part["begin"] = clock.of_ticks(found[:, trace.BEGIN])
        part["start"], part["steps"] = found[:, trace.START], found[:, trace.STEPS]
        part["seconds"] = found[:, : len(KERNEL_PHASES)] * clock.tick_seconds
        part["timed"] = part["seconds"].any(axis=1)
        for thread in range(len(times)):
            _fill_in(part, np.flatnonzero(threads == thread), end)
        parts.append(part)
        end = float(part["begin"].min(initial=end))
    chunks = np.concatenate(parts) if parts else np.zeros(0, CHUNK)
    return chunks[np.lexsort((chunks["begin"], chunks["thread"]))]


def _fill_in(chunks: np.ndarray, places: np.ndarray, end: float) -> None:
    """Estimate the phases of the chunks of one thread in one kernel run, over by `end`, that were not timed."""
    timed, untimed = places[chunks["timed"][places]], places[~chunks["timed"][places]]
    if not len(untimed):
        return
    sums = chunks["seconds"][timed].sum(axis=0)
    shares, a_step = sums / sums.sum(), sums.sum() / chunks["steps"][timed].sum()
    last = places[-1]
    # Nothing follows the last one: it took as long as others, if there was time.
    stop = min(chunks["begin"][last] + a_step * chunks["steps"][last], end)
    durations = np.diff(chunks["begin"][places], append=stop)
    for place, seconds in zip(places, durations, strict=True):
        if not chunks["timed"][place]:
            chunks["seconds"][place] = shares * max(seconds, 0.0)


def _phases(
    costs: dict[str, Cost], chunks: np.ndarray, begin: float, seconds: float, dtype: np.dtype, joined: int
) -> tuple[Phase, ...]:
    by_thread = np.zeros((joined, len(KERNEL_PHASES)))
    np.add.at(by_thread, chunks["thread"], chunks["seconds"])
    pack = chunks["begin"].min() - begin if len(chunks) else 0.0
    phases = [Phase("pack", float(pack), (), 0, 0, 0.0)]
    for name, times in zip(KERNEL_PHASES, by_thread.T, strict=True):
        if times.any():
            cost = costs.get(name, Cost())
            limit = cost.limit_seconds(dtype, joined)
            phases.append(Phase(name, float(times[0]), tuple(times.tolist()), cost.flops, cost.bytes, limit))
    rest = seconds - sum(phase.seconds for phase in phases)
    return (*phases, Phase("wrapper", rest, (), 0, 0, 0.0))


def _table_lines(calls: list[Call]) -> str:
    """A line for calls of one kind, and one for each of their phases."""
    first, mean = calls[0], sum(call.seconds for call in calls) / len(calls)
    sizes = ", ".join(f"{name} = {size}" for name, size in first.sizes.items())
    times = f"{len(calls)} calls of " if len(calls) > 1 else ""
    joined = max(call.joined for call in calls)
    of_threads = f", {joined} of {first.threads} threads" if first.threads > 1 else ""
    lines = [
        f"{first.name}({sizes}, {first.dtype}): {times}{time_text(mean)}{of_threads}",
        f"    memory: {size_text(first.result_bytes)} returned, {size_text(first.kept_bytes)} in the cache"
        + (
            f", {size_text(max(call.peak_bytes or 0 for call in calls))} at most"
            if first.peak_bytes is not None
            else ""
        ),
    ]
    code = [(sum(call.compiled for call in calls), "compiled"), (sum(call.loaded for call in calls), "loaded")]
    if any(count for count, _ in code):
        lines.append("    machine code: " + ", ".join(f"{kernels_text(count)} {how}" for count, how in code if count))
    lines.append(f"    {'phase':<12}{'time':>10}{'share':>8}{'GFLOP/s':>10}{'GB/s':>9}{'of limit':>10}   each thread")
    lines.append(_phase_line("all", mean, mean, first.flops, first.bytes, first.limit_seconds, ""))
    for name in PHASES:
        found = [phase for call in calls for phase in call.phases if phase.name == name]
        if found:
            seconds = sum(phase.seconds for phase in found) / len(calls)
            threads = found[0].thread_seconds if len(calls) == 1 else ()
            each = "  ".join(time_text(t) for t in threads) if len(threads) > 1 else ""
            phase = found[0]
            lines.append(_phase_line(name, seconds, mean, phase.flops, phase.bytes, phase.limit_seconds, each))
    return "\n".join(lines)


def _html_of(calls: list[Call]) -> str:
    """The same for notebooks; the text has one column for each of the table's."""
    first, mean = calls[0], sum(call.seconds for call in calls) / len(calls)
    rows = []
    for name in ("all", *PHASES):
        found = [call.phase[name] for call in calls if name in call.phase]
        if name == "all" or found:
            one = found[0] if found else first
            seconds = sum(phase.seconds for phase in found) / len(calls) if found else mean
            rate = f"{one.flops / seconds / 1e9:.1f}" if one.flops and seconds > 0 else ""
            reached = f"{one.limit_seconds / seconds:.0%}" if one.limit_seconds and seconds > 0 else ""
            rows.append((name, time_text(seconds), f"{seconds / mean:.1%}", rate, reached))
    head = "".join(f"<th>{title}</th>" for title in ("phase", "time", "share", "GFLOP/s", "of limit"))
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    caption = escape(_table_lines(calls).partition("\n")[0])
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _phase_line(name: str, seconds: float, whole: float, flops: int, n_bytes: int, limit: float, each: str) -> str:
    rates = [amount / seconds / 1e9 if seconds > 0 else 0.0 for amount in (flops, n_bytes)]
    flop_rate, byte_rate = (f"{rate:.1f}" if rate else "" for rate in rates)
    fraction = f"{limit / seconds:.0%}" if limit and seconds > 0 else ""
    shown = f"{time_text(seconds):>10}{seconds / whole:8.1%}{flop_rate:>10}{byte_rate:>9}{fraction:>10}"
    return f"    {name:<12}{shown}   {each}".rstrip()


def time_text(seconds: float) -> str:
    """A time with its unit, to three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def kernels_text(count: int) -> str:
    """A number of kernels."""
    return f"{count} kernel{'s' * (count != 1)}"


def size_text(n_bytes: int) -> str:
    """A number of bytes with its unit, to three digits."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes} B"


def _trace_events(call: Call, member: int, track: int) -> list[dict[str, Any]]:
    """Complete events ("X", in microseconds) of one thread in one call."""
    events = []

    def event(name: str, begin: float, seconds: float, **details: Any) -> None:
        place = {"ph": "X", "pid": 1, "tid": track, "ts": begin * 1e6, "dur": seconds * 1e6}
        events.append({"name": name, **place, "args": details})

    if member == 0:
        event(call.name, call.begin, call.seconds, dtype=call.dtype, threads=call.threads, **call.sizes)
        for phase in call.phases:
            if phase.name == "pack":
                event("pack", call.begin, phase.seconds)
    for chunk in call.chunks[call.chunks["thread"] == member]:
        begin, seconds = float(chunk["begin"]), chunk["seconds"].tolist()
        event("chunk", begin, sum(seconds), start=int(chunk["start"]), steps=int(chunk["steps"]))
        for name, duration in zip(KERNEL_PHASES, seconds, strict=True):
            if duration > 0:
                event(name, begin, duration)
                begin += duration
    return events
