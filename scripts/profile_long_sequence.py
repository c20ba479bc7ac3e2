#!/usr/bin/env python3
"""Profile an RNN or LSTM over sequences of growing length, from inside its kernels.

    python scripts/profile_long_sequence.py                              LSTM inference, T from 1e2 to 1e6
    python scripts/profile_long_sequence.py --training --lengths 1e3,1e5 forward and backward
    python scripts/profile_long_sequence.py --input FILE.npy --hidden 128   a sequence of one's own

Prints a table of time and memory against T, the phases of the longest sequence, and in plain words what bounds it and
what would make it faster. OUT (``--out``, ``out`` unless told otherwise) receives profile.png, profile.json and
profile-trace.json, which https://ui.perfetto.dev and chrome://tracing show. Ctrl-C ends the measurement, shows what
there is, and ends with exit status 130.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import numpy as np
    from _machine import describe
    from matplotlib.figure import Figure
    from tqdm import tqdm

    import rnnkernels
    from rnnkernels import profiling, roofline
except ModuleNotFoundError as missing:
    sys.exit(
        f"{missing.name} is not installed for {sys.executable}.\n"
        'To install what this script needs: python -m pip install -e ".[profile]"'
    )

LENGTHS = "1e2,1e3,1e4,1e5,1e6"
LEAST_SECONDS = 0.3
MOST_REPEATS = 20
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
        value = int(float(text))
        if value < 1:
            raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
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
    options = parser.parse_args(arguments)
    if options.input and (options.batch or options.inputs):
        parser.error("--input decides --batch and --inputs; leave them out")
    return options


def open_input(path: Path) -> np.ndarray:
    """Map a file of sequences into memory, as (N, T, D)."""
    try:
        x = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        sys.exit(f"Cannot read {path} as an array: {error}")
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
        self.weights = (
            self._normal(D, gates * H) / np.sqrt(D, dtype=options.dtype),
            self._normal(H, gates * H) / np.sqrt(H, dtype=options.dtype),
            self._normal(gates * H),
        )

    def _normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape, self.options.dtype)

    def lengths(self) -> list[int]:
        """Steps to profile; those of a file end with its own length."""
        wanted = self.options.lengths or [int(float(text)) for text in LENGTHS.split(",")]
        if self.file is None:
            return wanted
        whole = self.file.shape[1]
        return sorted({*(T for T in wanted if whole > T), whole} if not self.options.lengths else {*wanted})

    def inputs(self, T: int) -> np.ndarray:
        """Sequences of T steps in the dtype of the weights."""
        N, D, _ = self.sizes
        if self.file is None:
            return self._normal(N, T, D)
        if self.file.shape[1] < T:
            sys.exit(f"{self.options.input} has {self.file.shape[1]} steps, fewer than {T}.")
        return np.ascontiguousarray(self.file[:, :T], self.options.dtype)

    def run(self, x: np.ndarray, dh: np.ndarray | None) -> None:
        """Forward over `x`, and backward if there is a gradient `dh`."""
        cell, threads = self.options.cell, self.options.threads
        h0 = np.zeros((len(x), self.sizes[2]), x.dtype)
        forward, backward = (getattr(rnnkernels, f"{cell}_{way}") for way in ("forward", "backward"))
        _, cache = forward(x, h0, *self.weights, keep_cache=dh is not None, num_threads=threads)
        if dh is not None:
            backward(dh, cache, num_threads=threads)

    def needs_bytes(self, T: int) -> float:
        """Memory that T steps take, about: inputs and results, and for training cache and gradients."""
        N, D, H = self.sizes
        states = (4 if self.gates == 4 else 1) + (3 if self.gates == 4 else 2)
        return N * T * np.dtype(self.options.dtype).itemsize * ((D + H) + self.options.training * (D + states * H))


def free_bytes() -> float:
    """Memory that is free, infinite where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return float("inf")


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


def print_head() -> None:
    """Head of the table."""
    print(
        f"{'T':>9}{'time':>11}{'ns/step':>10}{'GFLOP/s':>9}{'of limit':>10}{'threads':>9}"
        f"{'result':>10}{'cache':>10}{'scratch':>10}"
    )


def line(point: Point) -> str:
    """A line of the table."""
    threads = max(call.joined for call in point.calls)
    sizes = "".join(f"{n / 1e6:>7.1f} MB" for n in (point.result_bytes, point.kept_bytes, point.scratch_bytes))
    return (
        f"{point.T:>9}{point.seconds * 1e3:>8.2f} ms{point.step_ns:>10.0f}{point.flops / point.seconds / 1e9:>9.1f}"
        f"{point.limit_seconds / point.seconds:>10.0%}{threads:>9}{sizes}"
    )


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
    each = (
        f", {Wh_bytes / 1024:.0f} KiB on each of {joined} threads," if joined > 1 else f", {Wh_bytes / 1024:.0f} KiB,"
    )
    more = "more sequences per call (they share each read)" if N < 6 else "a smaller or narrower Wh"
    meaning = {
        "recur": (
            f"reading Wh{each} from {level_of(Wh_bytes, caches)} in each step: {more}"
            + (", or float32" if item == 8 else "")
            if reads
            else "arithmetic of h @ Wh: more threads or a wider processor" + (", or float32" if item == 8 else "")
        ),
        "cell": "the activation functions and what they read and write: more threads"
        + (", and reuse of memory, whose first touch is slow" if problem.options.training else ""),
        "project": "arithmetic of x @ Wx: more threads",
        "accumulate": "arithmetic of the weight gradients and dx: more threads",
        "pack": "packing the weights before the first step: longer sequences, or a stream that keeps them packed",
        "gather": "copying the inputs",
        "scatter": "copying the hidden states to the result, whose pages are touched for the first time",
        "wait": f"threads that wait for one another at each step: --threads {max(joined - 1, 1)}, a larger H or batch",
        "wrapper": "the Python side of the call: longer sequences",
    }
    lines = [
        f"T = {point.T}: a step takes {point.step_ns:.0f} ns; all phases at the limits of this machine would take "
        f"{point.limit_seconds / point.T * 1e9:.0f} ns."
    ]
    for name, seconds in sorted(phases.items(), key=lambda item: -item[1]):
        share = seconds / point.seconds
        if share < 0.1:
            break
        limit = sum(phase.limit_seconds for call in point.calls for phase in call.phases if phase.name == name)
        reached = f" (at {limit / seconds:.0%} of the limit)" if limit else ""
        words, _, cure = meaning[name].partition(": ")
        lines.append(f"{share:4.0%} {name}{reached}: {words}." + (f" What helps: {cure}." if cure else ""))
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


def draw(problem: Problem, points: list[Point], title: str, path: Path) -> None:
    """Time, memory, phases, steps over the sequence, and roofline."""
    figure = Figure(figsize=(15, 8.5), layout="constrained")
    figure.suptitle(title)
    (times, memory, bars), (steps, roof, spare) = figure.subplots(2, 3)
    lengths = [point.T for point in points]

    times.loglog(lengths, [point.seconds for point in points], "o-", label="measured")
    times.loglog(lengths, [point.limit_seconds for point in points], ":", color="#555555", label="limit of the machine")
    times.set(title="time", xlabel="T", ylabel="seconds")
    memory.loglog(lengths, [point.result_bytes for point in points], "o-", label="results")
    if any(point.kept_bytes for point in points):
        memory.loglog(lengths, [point.kept_bytes for point in points], "s-", label="cache")
    memory.loglog(lengths, [max(point.scratch_bytes, 1) for point in points], "^-", label="everything else")
    memory.set(title="memory", xlabel="T", ylabel="bytes")

    below = np.zeros(len(points))
    for name in profiling.PHASES:
        heights = np.array([max(point.phases()[name], 0.0) / point.T * 1e9 for point in points])
        if heights.any():
            bars.bar([f"{T:.0e}" for T in lengths], heights, bottom=below, label=name, color=COLOURS[name])
            below += heights
    bars.set(title="phases on the calling thread", xlabel="T", ylabel="ns per step")
    bars.set_ylim(0, 1.6 * float(np.median(below)))

    for call in points[-1].calls:
        start, ns = call.steps_ns
        steps.plot(start, ns, ".", markersize=2, label=call.name)
    steps.set(title=f"steps over the sequence, T = {lengths[-1]}", xlabel="step", ylabel="ns per step of a chunk")
    if len(ns):
        steps.set_ylim(0, 2 * float(np.median(ns)))

    _draw_roofline(problem, points[-1], roof)
    for axes in (times, memory, bars, steps, roof):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    spare.axis("off")
    spare.text(0, 1, points[-1].profile.table(), family="monospace", fontsize=5.5, va="top")
    figure.savefig(path, dpi=130)


def _draw_roofline(problem: Problem, point: Point, axes: Any) -> None:
    joined = max(call.joined for call in point.calls)
    peak = roofline.fma_peak(problem.options.dtype, joined) / 1e9
    intensity = np.logspace(-2, 3, 50)
    for label, n_bytes in (("16 KiB", 1 << 14), ("256 KiB", 1 << 18), ("8 MiB", 1 << 23), ("256 MiB", 1 << 28)):
        bandwidth = roofline.read_bandwidth(n_bytes, joined) / 1e9
        axes.loglog(intensity, np.minimum(peak, bandwidth * intensity), linewidth=1, label=f"reading {label}")
    for call in point.calls:
        for phase in call.phases:
            if phase.flops:
                marker = "o" if call.name.endswith("forward") else "s"
                place = phase.flops / phase.bytes, phase.gflops
                axes.plot(*place, marker, color=COLOURS[phase.name], markersize=8)
                axes.annotate(f"{phase.name}", place, (6, -10), textcoords="offset points", fontsize=8)
    axes.set(title=f"roofline, {joined} thread{'s' * (joined > 1)}", xlabel="FLOP per byte", ylabel="GFLOP/s")


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
    machine = describe()
    N, D, H = problem.sizes
    task = "forward and backward" if options.training else "inference"
    title = f"{options.cell.upper()} {task}, N = {N}, D = {D}, H = {H}, {options.dtype}"
    print(f"{machine['processor']}, {machine['cores']} cores, caches {machine['caches']}\n{title}")

    points: list[Point] = []
    status = 0
    try:
        lengths = problem.lengths()
        measure(problem, lengths[0])  # compiles, and measures the limits of the machine
        print_head()
        with tqdm(total=sum(lengths), unit="step", leave=False, disable=None) as bar:
            for T in lengths:
                if problem.needs_bytes(T) > MEMORY_SHARE * free_bytes():
                    bar.write(f"{T:>9}  left out: it needs {problem.needs_bytes(T) / 1e9:.1f} GB", file=sys.stdout)
                    continue
                points.append(measure(problem, T))
                bar.write(line(points[-1]), file=sys.stdout)
                bar.update(T)
    except KeyboardInterrupt:
        status = 130
    if not points:
        print("Nothing was measured.")
        return status or 1
    print("\n" + points[-1].profile.table() + "\n")
    for sentence in (*growth(points), *verdict(problem, points[-1], machine["caches"])):
        print(sentence)
    run = machine | {"title": title, "command": arguments if arguments is not None else sys.argv[1:]}
    save(points, run, options.out)
    draw(problem, points, f"{title}\n{machine['processor']}, {machine['cores']} cores", options.out / "profile.png")
    print(f"\nIn {os.fspath(options.out)}: profile.png, profile.json, profile-trace.json (for https://ui.perfetto.dev)")
    return status


if __name__ == "__main__":
    sys.exit(main())
