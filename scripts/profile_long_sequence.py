#!/usr/bin/env python3
"""Profile an RNN or LSTM over sequences of growing length, from inside its kernels.

    python scripts/profile_long_sequence.py                                LSTM inference, T from 1e2 to 1e6
    python scripts/profile_long_sequence.py --training --lengths 1e3,1e5   forward and backward
    python scripts/profile_long_sequence.py --input FILE.npy --hidden 128  a sequence of one's own

Prints a table of time and memory against T, the phases of the longest sequence, and in plain words what bounds it and
what would make it faster. OUT (``--out``, ``out`` unless told otherwise) receives profile.png, profile.json and
profile-trace.json, which https://ui.perfetto.dev and chrome://tracing show; ``--html FILE`` writes one page with
interactive plots, which can be sent to others. Ctrl-C ends the measurement, shows what
there is, and ends with exit status 130.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import sys
import time
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import psutil
    from _machine import OtherLoad, describe
    from matplotlib.figure import Figure
    from tabulate import tabulate
    from tqdm import tqdm

    import rnnkernels
    from rnnkernels import profiling, roofline
    from rnnkernels._threads import available_threads
except ModuleNotFoundError as missing:
    sys.exit(
        f"{missing.name} is not installed for {sys.executable}.\n"
        'To install what this script needs: python -m pip install -e ".[profile]"'
    )

LENGTHS = "1e2,1e3,1e4,1e5,1e6"
LEAST_SECONDS = 0.3
MOST_REPEATS = 20
FAULT = 1.1
"""A time this much shorter than the limit of the machine is no time, but a fault of the measurement of either."""
BUSY_CORES = 0.2
"""Other programs that keep so much of a core busy are worth a word."""
CUT = 2.5
"""Plots show so many medians; what is beyond is marked at their edge."""
MEMORY_SHARE = 0.8
"""Of the memory that is free, a sequence may take so much."""

COLOURS = dict(
    zip(
        profiling.PHASES,
        ("#999999", "#9ecae1", "#3182bd", "#e6550d", "#31a354", "#756bb1", "#a1d99b", "#de2d26", "#cccccc"),
        strict=True,
    )
)


@dataclass
class Point:
    """A length of the sequence, with the calls of its fastest repetition: forward, and perhaps backward."""

    T: int
    calls: list[profiling.Call]
    profile: profiling.Profile
    scratch_bytes: int
    """Most memory at any time besides results and cache."""

    @property
    def seconds(self) -> float:
        """Time of the calls."""
        return sum(call.seconds for call in self.calls)

    @property
    def limit_seconds(self) -> float:
        """Shortest time on this machine."""
        return sum(call.limit_seconds for call in self.calls)

    @property
    def flops(self) -> int:
        """Floating-point operations of matrix products."""
        return sum(call.flops for call in self.calls)

    @property
    def step_ns(self) -> float:
        """Time of a step."""
        return self.seconds / self.T * 1e9

    @property
    def result_bytes(self) -> int:
        """Arrays that the caller gets."""
        return sum(call.result_bytes for call in self.calls)

    @property
    def kept_bytes(self) -> int:
        """The cache from forward to backward."""
        return sum(call.kept_bytes for call in self.calls)

    def phases(self) -> dict[str, float]:
        """Seconds of each phase on the calling thread."""
        return {
            name: sum(phase.seconds for call in self.calls for phase in call.phases if phase.name == name)
            for name in profiling.PHASES
        }


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""

    def lengths(text: str) -> list[int]:
        return sorted({positive_int(part) for part in text.split(",")})

    def positive_int(text: str) -> int:
        try:
            value = int(float(text))
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(f"must be numbers such as 1000 or 1e3, got {text!r}") from None
        if value != float(text):
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text}")
        if value < 1 or value >= 1 << 62:
            raise argparse.ArgumentTypeError(f"must be at least 1 and below 2**62, got {text}")
        return value

    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=lengths, metavar="T,T,...", help=f"steps (default: {LENGTHS})")
    parser.add_argument("--cell", choices=["lstm", "rnn"], default="lstm")
    parser.add_argument("--batch", type=positive_int, metavar="N", help="sequences (default: 1)")
    parser.add_argument("--inputs", type=positive_int, metavar="D", help="inputs per step (default: 16)")
    parser.add_argument("--hidden", type=positive_int, default=64, metavar="H", help="hidden units (default: 64)")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=positive_int, help="most threads of a call (default: all processors)")
    parser.add_argument("--training", action="store_true", help="forward and backward, not forward alone")
    parser.add_argument("--input", type=Path, metavar="FILE.npy", help="sequence (T, D) or sequences (N, T, D)")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder of the results")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with interactive plots, too")
    options = parser.parse_args(arguments)
    out = options.out.resolve()  # which is made, with the folders that it is in
    if options.html and not options.html.parent.is_dir() and not out.is_relative_to(options.html.parent.resolve()):
        parser.error(f"--html: there is no folder {options.html.parent}")
    if options.html and (options.html.is_dir() or out.is_relative_to(options.html.resolve())):
        parser.error(f"--html: {options.html} is a folder; name a file in it")
    if options.html and find_spec("plotly") is None:
        parser.error('--html needs plotly: python -m pip install -e ".[profile]"')
    if options.input and (options.batch or options.inputs):
        parser.error("--input decides --batch and --inputs; leave them out")
    return options


def open_input(path: Path) -> np.ndarray:
    """Map a file of sequences into memory, as (N, T, D)."""
    try:
        x = np.load(path, mmap_mode="r")
    except EOFError:
        sys.exit(f"Cannot read {path} as an array: the file is empty.")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"Cannot read {path} as an array: {error}")
    if not isinstance(x, np.ndarray):
        names = ", ".join(x.files)
        sys.exit(f"{path} is an archive of arrays ({names}), not one array: save the one that you mean by numpy.save.")
    if x.ndim not in (2, 3) or 0 in x.shape or x.dtype.kind not in "iuf":
        sys.exit(f"{path} must hold numbers of shape (T, D) or (N, T, D); it holds {x.dtype} of shape {x.shape}.")
    return x if x.ndim == 3 else x[np.newaxis]


class Problem:
    """Weights, and sequences of any length."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.file = open_input(options.input) if options.input else None
        N, _, D = self.file.shape if self.file is not None else (options.batch or 1, 0, options.inputs or 16)
        H, gates = options.hidden, 4 if options.cell == "lstm" else 1
        self.rng = np.random.default_rng(0)
        self.sizes = N, D, H
        self.gates = gates
        self._check_memory()
        self.weights = (
            self._normal(D, gates * H) / np.sqrt(D, dtype=options.dtype),
            self._normal(H, gates * H) / np.sqrt(H, dtype=options.dtype),
            self._normal(gates * H),
        )

    def _check_memory(self) -> None:
        """End if the weights, packed once more, and their gradients would take more memory than is free."""
        _, D, H = self.sizes
        n_bytes = (D + H + 1) * self.gates * H * np.dtype(self.options.dtype).itemsize * (2 + self.options.training)
        if n_bytes > MEMORY_SHARE * free_bytes():
            sys.exit(
                f"Weights of H = {H:,} and D = {D:,} take {n_bytes / 1e9:,.1f} GB of memory, as they are and packed; "
                f"{free_bytes() / 1e9:,.1f} are free: take a smaller --hidden or --inputs."
            )

    def _normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape, self.options.dtype)

    def lengths(self) -> list[int]:
        """Steps to profile; those of a file end with its own length."""
        wanted = self.options.lengths or [int(float(text)) for text in LENGTHS.split(",")]
        if self.file is None:
            return wanted
        whole = self.file.shape[1]
        for T in self.options.lengths or ():
            if whole < T:
                sys.exit(f"{self.options.input} has {whole} steps, fewer than {T}.")
        return sorted({*(T for T in wanted if whole > T), whole} if not self.options.lengths else {*wanted})

    def inputs(self, T: int) -> np.ndarray:
        """Sequences of T steps in the dtype of the weights."""
        N, D, _ = self.sizes
        if self.file is None:
            return self._normal(N, T, D)
        return np.ascontiguousarray(self.file[:, :T], self.options.dtype)

    def run(self, x: np.ndarray, dh: np.ndarray | None) -> None:
        """Forward over `x`, and backward if there is a gradient `dh`."""
        cell, threads = self.options.cell, self.options.threads
        h0 = np.zeros((len(x), self.sizes[2]), x.dtype)
        forward, backward = (getattr(rnnkernels, f"{cell}_{way}") for way in ("forward", "backward"))
        _, cache = forward(x, h0, *self.weights, keep_cache=dh is not None, num_threads=threads)
        if dh is not None:
            backward(dh, cache, num_threads=threads)

    def fits(self, T: int) -> bool:
        """Whether there is memory for T steps."""
        return self.needs_bytes(T) <= MEMORY_SHARE * free_bytes()

    def needs_bytes(self, T: int) -> float:
        """Memory that T steps take, about: inputs and results, and for training cache and gradients."""
        N, D, H = self.sizes
        states = (4 if self.gates == 4 else 1) + (3 if self.gates == 4 else 2)
        return N * T * np.dtype(self.options.dtype).itemsize * ((D + H) + self.options.training * (D + states * H))


def free_bytes() -> float:
    """Memory that is free."""
    return float(psutil.virtual_memory().available)


def measure(problem: Problem, T: int) -> Point:
    """Profile T steps: once to count memory, then again and again, of which the fastest counts."""
    x = problem.inputs(T)
    dh = problem._normal(len(x), T, problem.sizes[2]) if problem.options.training else None
    with profiling.profile(memory=True) as watched:
        problem.run(x, dh)
    scratch = [(call.peak_bytes or 0) - call.result_bytes - call.kept_bytes for call in watched.calls]
    best: profiling.Profile | None = None
    began = time.perf_counter()
    for _ in range(MOST_REPEATS):
        with profiling.profile() as profile:
            problem.run(x, dh)
        if best is None or _seconds(profile) < _seconds(best):
            best = profile
        if time.perf_counter() - began > LEAST_SECONDS:
            break
    assert best is not None
    return Point(T, best.calls, best, max(scratch))


def _seconds(profile: profiling.Profile) -> float:
    return sum(call.seconds for call in profile.calls)


COLUMNS = ("T", "time, ms", "ns/step", "GFLOP/s", "of limit", "threads", "result, MB", "cache, MB", "scratch, MB")


def line(point: Point) -> list[str]:
    """A line of the table."""
    threads = max(call.joined for call in point.calls)
    sizes = [f"{n / 1e6:.1f}" for n in (point.result_bytes, point.kept_bytes, point.scratch_bytes)]
    rates = f"{point.step_ns:.0f}", f"{point.flops / point.seconds / 1e9:.1f}"
    return [f"{point.T:,}", f"{point.seconds * 1e3:.2f}", *rates, reached(point), str(threads), *sizes]


def reached(point: Any) -> str:
    """Part of the limit that a point or a phase reaches, unless that cannot be."""
    fraction = point.limit_seconds / point.seconds if point.seconds > 0 else float("inf")
    return "fault" if fraction > FAULT else f"{fraction:.0%}"


def table(points: list[Point]) -> str:
    """All lengths."""
    return str(tabulate([line(point) for point in points], COLUMNS, disable_numparse=True, stralign="right"))


def faults(points: list[Point]) -> list[str]:
    """Figures above the limits of the machine, which cannot be."""
    return [
        f"T = {point.T:,}, {call.name}, {phase.name}: {phase.limit_seconds / phase.seconds:.0%} of the limit of this "
        "machine. That is a fault of the measurement (a limit taken while other programs ran, or a time that is too "
        "short to be told): measure again on a quiet machine."
        for point in points
        for call in point.calls
        for phase in call.phases
        if phase.seconds > 0 and phase.limit_seconds > FAULT * phase.seconds and phase.seconds > 0.01 * call.seconds
    ]


def level_of(n_bytes: float, caches: dict[str, str]) -> str:
    """The nearest cache that holds so many bytes."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    for level, size in sorted(caches.items()):
        if n_bytes <= float(size[:-1]) * units.get(size[-1], 1):
            return level
    return "memory" if caches else "its cache"


def verdict(problem: Problem, point: Point, caches: dict[str, str]) -> list[str]:
    """What bounds the longest sequence, and what would make it faster, in plain words."""
    phases = point.phases()
    joined = max(call.joined for call in point.calls)
    N, _, H = problem.sizes
    item = np.dtype(problem.options.dtype).itemsize
    Wh_bytes = H * problem.gates * H * item / joined
    peak = roofline.fma_peak(problem.options.dtype, joined)
    recurrent = [phase for call in point.calls for phase in call.phases if phase.name == "recur"]
    reads = sum(phase.limit_seconds for phase in recurrent) > 1.01 * sum(phase.flops for phase in recurrent) / peak
    free = available_threads() - joined
    asked = problem.options.threads
    threads = ""
    if free > 0:
        threads = (
            f"more threads (--threads {joined + free})"
            if asked and asked <= joined
            else "larger N or H, for more threads"
        )
    each = (
        f", {Wh_bytes / 1024:.0f} KiB on each of {joined} threads," if joined > 1 else f", {Wh_bytes / 1024:.0f} KiB,"
    )
    more = "more sequences per call (they share each read)" if N < 6 else "a smaller or narrower Wh"
    meaning = {
        "recur": (
            f"reading Wh{each} from {level_of(Wh_bytes, caches)} in each step: {more}"
            + (", or float32" if item == 8 else "")
            if reads
            else "arithmetic of h @ Wh: "
            + " or ".join([*([threads] if threads else []), *(["float32"] if item == 8 else [])])
        ),
        "cell": "the activation functions and what they read and write: "
        + ", ".join(
            [
                *([threads] if threads else []),
                *(["reuse of memory, whose first touch is slow"] if problem.options.training else []),
            ]
        ),
        "project": f"arithmetic of x @ Wx: {threads}",
        "accumulate": f"arithmetic of the weight gradients and dx: {threads}",
        "pack": "packing the weights before the first step: longer sequences, or a stream that keeps them packed",
        "gather": "copying the inputs",
        "scatter": "copying the hidden states to the result, whose pages are touched for the first time",
        "wait": f"threads that wait for one another at each step: --threads {max(joined - 1, 1)}, a larger H or batch",
        "wrapper": "the Python side of the call: longer sequences",
    }
    lines = [
        f"T = {point.T:,}: a step takes {point.step_ns:.0f} ns; all phases at the limits of this machine would take "
        f"{point.limit_seconds / point.T * 1e9:.0f} ns."
    ]
    for name, seconds in sorted(phases.items(), key=lambda item: -item[1]):
        share = seconds / point.seconds
        if share < 0.1:
            break
        limit = sum(phase.limit_seconds for call in point.calls for phase in call.phases if phase.name == name)
        at = f" (at {limit / seconds:.0%} of the limit)" if 0 < limit <= FAULT * seconds else ""
        words, _, cure = meaning[name].partition(": ")
        lines.append(f"{share:4.0%} {name}{at}: {words}." + (f" What helps: {cure}." if cure else ""))
    return lines


def growth(points: list[Point]) -> list[str]:
    """How time and memory grow with T, in plain words."""
    if len(points) < 2:
        return []
    long = points[-1]
    base = next((p for p in points if p.T >= 1000 and p is not long), points[0])
    lines = [f"A step at T = {long.T} takes {long.step_ns / base.step_ns:.2f} x the time of one at T = {base.T}."]
    per_step = [(p.result_bytes + p.kept_bytes) / p.T for p in (base, long)]
    lines.append(
        f"Results and cache take {per_step[1] / 1e3:.2f} kB per step, {per_step[1] / per_step[0]:.2f} x as much as at "
        f"T = {base.T}; all else {base.scratch_bytes / 1e6:.2f} MB there and {long.scratch_bytes / 1e6:.2f} MB here."
    )
    return lines


def cut(values: np.ndarray) -> float:
    """Where a plot of values ends, so that a few slow ones do not press the others flat."""
    return min(CUT * float(np.median(values)), 1.05 * float(values.max()))


def draw(problem: Problem, points: list[Point], title: str, path: Path) -> None:
    """Time, memory, phases, steps over the sequence, roofline, and the phases of the longest sequence as a table."""
    figure = Figure(figsize=(16, 13), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplot_mosaic("tmb;ssr;xxx", height_ratios=(1, 1, 0.7))
    lengths = [point.T for point in points]

    axes["t"].loglog(lengths, [point.seconds for point in points], "o-", label="measured")
    limits = [point.limit_seconds for point in points]
    axes["t"].loglog(lengths, limits, ":", color="#555555", label="limit of the machine")
    axes["t"].set(title="time", xlabel="T", ylabel="seconds")
    axes["m"].loglog(lengths, [point.result_bytes for point in points], "o-", label="results")
    if any(point.kept_bytes for point in points):
        axes["m"].loglog(lengths, [point.kept_bytes for point in points], "s-", label="cache")
    axes["m"].loglog(lengths, [max(point.scratch_bytes, 1) for point in points], "^-", label="everything else")
    axes["m"].set(title="memory", xlabel="T", ylabel="bytes")
    _draw_phases(points, axes["b"])
    _draw_steps(points[-1], axes["s"])
    _draw_roofline(points[-1], problem.options.dtype, axes["r"])
    for name in "tmbsr":
        if name in "br":
            axes[name].legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
        elif name == "s":
            axes[name].legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
        else:
            axes[name].legend(fontsize=9)
        axes[name].grid(alpha=0.3)
    axes["x"].axis("off")
    for index, call in enumerate(points[-1].calls):
        place = index / len(points[-1].calls)
        axes["x"].text(place, 1, str(call), family="monospace", fontsize=9, va="top")
    figure.savefig(path, dpi=110)


def _draw_phases(points: list[Point], axes: Any) -> None:
    places, below = np.arange(len(points)), np.zeros(len(points))
    for name in profiling.PHASES:
        heights = np.array([max(point.phases()[name], 0.0) / point.T * 1e9 for point in points])
        if heights.any():
            axes.bar(places, heights, bottom=below, label=name, color=COLOURS[name])
            below += heights
    top = cut(below)
    axes.set_ylim(0, 1.1 * top)
    for place, height in zip(places, below, strict=True):
        if height > 1.1 * top:
            box = {"facecolor": "white", "edgecolor": "#555555", "pad": 1.5}
            axes.text(place, 1.07 * top, f"cut: {height:,.0f}", ha="center", va="top", fontsize=8, bbox=box)
    slant = {"rotation": 30, "ha": "right"} if len(points) > 4 else {}
    axes.set_xticks(places, [f"{point.T:,}" for point in points], **slant)
    axes.set(title="phases on the calling thread", xlabel="T", ylabel="ns per step")


def _draw_steps(point: Point, axes: Any) -> None:
    found = [(call.name, *call.steps_ns) for call in point.calls]
    top = max((cut(ns) for _, _, ns in found if len(ns)), default=1.0)
    for name, start, ns in found:
        if not len(ns):
            continue
        slow = ns > top
        [dots] = axes.plot(start[~slow], ns[~slow], ".", markersize=3, label=f"{name}: mean of {ns.mean():,.0f} ns")
        if ns.mean() < top:
            axes.axhline(ns.mean(), color=dots.get_color(), linewidth=1)
        if slow.any():
            label = f"{slow.sum()} of {len(ns)} chunks slower, up to {ns.max():,.0f} ns"
            axes.plot(start[slow], np.full(slow.sum(), top), "^", color=dots.get_color(), mec="black", label=label)
    axes.set_ylim(0, 1.05 * top)
    title = f"steps over the sequence, T = {point.T:,}"
    axes.set(title=title, xlabel="step", ylabel="ns per step of a chunk")


READS = (("16 KiB", 1 << 14), ("256 KiB", 1 << 18), ("8 MiB", 1 << 23), ("256 MiB", 1 << 28))


def _draw_roofline(point: Point, dtype: str, axes: Any) -> None:
    joined = max(call.joined for call in point.calls)
    peak = roofline.fma_peak(dtype, joined) / 1e9
    intensity = np.logspace(-2, 3, 50)
    for label, n_bytes in READS:
        bandwidth = roofline.read_bandwidth(n_bytes, joined) / 1e9
        axes.loglog(intensity, np.minimum(peak, bandwidth * intensity), linewidth=1, label=f"reading {label}")
    for call in point.calls:
        for phase in call.phases:
            if phase.flops:
                way = call.name.rpartition("_")[2]
                marker = "o" if way == "forward" else "s"
                place = phase.flops / phase.bytes, phase.gflops
                axes.plot(*place, marker, color=COLOURS[phase.name], markersize=8, label=f"{phase.name}, {way}")
    axes.set(title=f"roofline, {joined} thread{'s' * (joined > 1)}", xlabel="FLOP per byte", ylabel="GFLOP/s")


def write_page(points: list[Point], title: str, words: list[str], path: Path) -> None:
    """One page with everything in it: plots that can be zoomed and asked for values, tables, and the verdict."""
    from plotly import graph_objects as plots
    from plotly.subplots import make_subplots

    names = "time", "memory", "phases on the calling thread", f"steps over the sequence, T = {points[-1].T:,}"
    figure = make_subplots(2, 2, subplot_titles=names)
    lengths = [point.T for point in points]
    for place, series in (
        (1, {"measured, s": [p.seconds for p in points], "limit, s": [p.limit_seconds for p in points]}),
        (2, {"results, B": [p.result_bytes for p in points], "cache, B": [p.kept_bytes for p in points],
             "all else, B": [p.scratch_bytes for p in points]}),
    ):  # fmt: skip
        for label, values in series.items():
            if any(values):
                figure.add_trace(plots.Scatter(x=lengths, y=values, name=label, mode="lines+markers"), 1, place)
        figure.update_xaxes(type="log", title="T", row=1, col=place)
        figure.update_yaxes(type="log", row=1, col=place)
    for name in profiling.PHASES:
        heights = [max(point.phases()[name], 0.0) / point.T * 1e9 for point in points]
        if any(heights):
            bar = plots.Bar(x=[f"{T:,}" for T in lengths], y=heights, name=name, marker_color=COLOURS[name])
            figure.add_trace(bar, 2, 1)
    for call in points[-1].calls:
        start, ns = call.steps_ns
        dots = plots.Scattergl(x=start.tolist(), y=ns.tolist(), name=call.name, mode="markers", marker={"size": 4})
        figure.add_trace(dots, 2, 2)
    figure.update_xaxes(type="category", title="T", row=2, col=1)
    figure.update_yaxes(title="ns per step", rangemode="tozero", row=2)
    figure.update_xaxes(title="step", row=2, col=2)
    figure.update_layout(barmode="stack", height=850, template="plotly_white")
    plot = figure.to_html(full_html=False, include_plotlyjs="inline")
    lines = tabulate([line(point) for point in points], COLUMNS, tablefmt="html", disable_numparse=True)
    page = f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>body {{ font-family: sans-serif; margin: 2em }} td, th {{ padding: 0 0.8em; text-align: right }}</style></head>
<body><h1>{html.escape(title)}</h1>{"".join(f"<p>{html.escape(sentence)}</p>" for sentence in words)}
{lines}{plot}<h2>The longest sequence</h2>{points[-1].profile._repr_html_()}</body></html>
"""
    path.write_text(page, encoding="utf-8")


def save(points: list[Point], run: dict[str, Any], folder: Path) -> None:
    """Write the figures of all lengths, and the trace of the longest."""
    record = run | {
        "points": [
            {
                "T": point.T,
                "seconds": point.seconds,
                "step_ns": point.step_ns,
                "limit_seconds": point.limit_seconds,
                "result_bytes": point.result_bytes,
                "kept_bytes": point.kept_bytes,
                "scratch_bytes": point.scratch_bytes,
            }
            | point.profile.to_dict()
            for point in points
        ]
    }
    (folder / "profile.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    points[-1].profile.save_chrome_trace(folder / "profile-trace.json")


def main(arguments: list[str] | None = None) -> int:
    """Profile each length and report; 130 after Ctrl-C."""
    options = parse_arguments(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"Cannot make the folder {options.out}: {error.strerror}")
    problem = Problem(options)
    lengths = problem.lengths()
    machine = describe()
    N, D, H = problem.sizes
    task = "forward and backward" if options.training else "inference"
    title = f"{options.cell.upper()} {task}, N = {N}, D = {D}, H = {H}, {options.dtype}"
    print(f"{machine['processor']}, {machine['cores']} cores, caches {machine['caches']}\n{title}")

    points: list[Point] = []
    status = 0
    load = OtherLoad([os.getpid()])
    try:
        if problem.fits(lengths[0]):
            measure(problem, lengths[0])  # compiles, and measures the limits of the machine
        load = OtherLoad([os.getpid()])
        with tqdm(total=sum(lengths), unit="step", leave=False, disable=None) as bar:
            for T in lengths:
                if not problem.fits(T):
                    bar.write(f"{T:>9}  left out: it needs {problem.needs_bytes(T) / 1e9:.1f} GB", file=sys.stdout)
                    continue
                points.append(measure(problem, T))
                bar.update(T)
    except KeyboardInterrupt:
        status = 130
    if not points:
        print("Nothing was measured.")
        return status or 1
    others = load.cores()
    words = [*faults(points), *growth(points), *verdict(problem, points[-1], machine["caches"])]
    if others is not None and others > BUSY_CORES:
        words.insert(
            0, f"Other programs kept {others:.1f} cores busy meanwhile: times are longer than on a quiet machine."
        )
    print(table(points) + "\n\n" + points[-1].profile.table() + "\n")
    for sentence in words:
        print(sentence)
    run = machine | {"title": title, "command": arguments if arguments is not None else sys.argv[1:]}
    save(points, run | {"other_cores_busy": others, "words": words}, options.out)
    beside = f"; other programs kept {others:.1f} cores busy" if others is not None and others > BUSY_CORES else ""
    place = f"{machine['processor']}, {machine['cores']} cores{beside}"
    draw(problem, points, f"{title}\n{place}", options.out / "profile.png")
    if options.html:
        write_page(points, f"{title}; {place}", words, options.html)
    print(f"\nIn {os.fspath(options.out)}: profile.png, profile.json, profile-trace.json (for https://ui.perfetto.dev)")
    return status


if __name__ == "__main__":
    sys.exit(main())
