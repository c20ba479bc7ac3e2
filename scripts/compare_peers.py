#!/usr/bin/env python3
"""Measure rnnkernels beside PyTorch, ONNX Runtime, OpenVINO, JAX and plain NumPy, in one interleaved run.

    python scripts/compare_peers.py                                   the whole grid
    python scripts/compare_peers.py --quick                           a selection, some ten minutes on two cores
    python scripts/compare_peers.py --points "training.*50,50"       points whose line in --list matches
    python scripts/compare_peers.py --show out/peers.json             table and chart of an earlier run, or of several

Each peer lives in a process of its own that sleeps while another one is measured; all have the same number of threads
and the same CPUs. At each point all peers are first built, compiled and warmed up, and their results compared with a
float64 computation in NumPy; then rounds visit them in turn, and the medians of the visits are compared. Peers that
make a session from constant weights (ONNX Runtime, OpenVINO) are compared with our layers, whose weights are packed
once, too, and all others with our functions; ``--peers`` without ``layers`` compares everything with the functions.
The speed of fused multiply-adds, and of reading as many bytes as the recurrent weights have, is measured in the same
rounds.

OUT (``--out``, ``out`` unless told otherwise) receives peers.json with every round, and peers.png. Ctrl-C ends the
measurement and shows what there is.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INSTALL = 'python -m pip install -e ".[peers]"'

try:
    import numpy as np
    from _cells import CELLS, available_cells
    from _machine import Limits, OtherLoad, Worker, WorkerError, physical_cores
    from _peers import (
        PEERS,
        Arrays,
        OwnFigures,
        Point,
        Session,
        absent,
        describe_run,
        function_task,
        make_arrays,
    )
    from tqdm import tqdm

    import rnnkernels
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed for {sys.executable}; {INSTALL} installs it and every peer.")

OURS = "rnnkernels"
LAYERS = "layers"
"""Our layers, which keep packed weights; compared with the peers that do so, too."""

TOLERANCES = {"float32": 1e-4, "float64": 1e-11}
"""Largest difference from the float64 computation, as a share of the largest value of the array. Sums over 1e5 steps
in float32 come to some 1e-5; a wrong gate order comes to 1e-1."""

MINIMUM_VISITS = 3

DISTURBED_ABOVE = 0.15
"""Cores that other processes may keep busy during a row. A busy core costs threads that spin for one another many
times its share, so that such a row says little about more than one thread."""


@dataclass(frozen=True)
class Shape:
    """A line of the grid."""

    name: str
    N: int
    T: int
    D: int
    H: int
    cells: tuple[str, ...] = tuple(CELLS)
    tasks: tuple[str, ...] = ("inference", "training")
    float64: bool = False
    quick: tuple[str, ...] = ()
    """Cells and dtypes that `--quick` measures."""


GRID = (
    Shape("streaming step", 1, 1, 32, 32, tasks=("step",)),
    Shape("streaming step", 1, 1, 64, 64, tasks=("step",), quick=("lstm float32", "rnn float32", "gru float32")),
    Shape("single stream", 1, 1000, 64, 64, quick=("lstm float32",)),
    Shape("single stream", 1, 1000, 128, 128),
    Shape("single stream", 1, 1000, 256, 256, float64=True, quick=("lstm float32", "rnn float32", "gru float32")),
    Shape("single stream", 1, 1000, 512, 512),
    Shape("single stream", 1, 1000, 1024, 1024),
    Shape("few streams", 4, 150, 256, 256, quick=("lstm float32",)),
    Shape(
        "char-rnn", 50, 50, 128, 128, float64=True, quick=("lstm float32", "lstm float64", "rnn float32", "gru float32")
    ),
    Shape("captioning", 50, 17, 256, 512, float64=True, quick=("lstm float32",)),
    Shape("PTB medium", 20, 35, 650, 650, float64=True),
    Shape("speech", 64, 50, 500, 500),
    Shape("speech", 32, 50, 1760, 1760, cells=("rnn",)),
    Shape("large", 64, 25, 1024, 1024),
    Shape("forecasting", 64, 168, 8, 64, quick=("lstm float32",)),
    Shape("long", 8, 10_000, 64, 128),
    Shape("long", 1, 100_000, 16, 64),
)


def grid() -> Iterator[tuple[Point, bool]]:
    """Points in the order of the tables, each with whether `--quick` has it."""
    for cell in available_cells(rnnkernels):
        for task in ("step", "inference", "training"):
            for dtype in ("float32", "float64"):
                for shape in GRID:
                    if cell in shape.cells and task in shape.tasks and (shape.float64 or dtype == "float32"):
                        point = Point(shape.name, cell, task, dtype, shape.N, shape.T, shape.D, shape.H)
                        yield point, f"{cell} {dtype}" in shape.quick


@dataclass
class Timing:
    """One peer at one point."""

    way: str
    error: float
    """Largest difference from the float64 computation, as a share of the largest value of the array."""
    rms_error: float
    """Root of the mean squared difference, as a share of that of the values; of the worst array."""
    build_seconds: float
    """Compilation and first calls, while the other peers did the same."""
    rounds: list[float] = field(default_factory=list)
    """Median seconds per call of each visit."""
    best: float = math.inf
    """Shortest call of all visits, in seconds."""

    @property
    def seconds(self) -> float:
        """Median of the visits."""
        return float(np.median(self.rounds))

    @property
    def spread(self) -> float:
        """Distance between the quartiles of the visits, as a share of their median."""
        low, high = np.quantile(self.rounds, [0.25, 0.75])
        return float((high - low) / self.seconds)


@dataclass
class Row:
    """All peers at one point and one number of threads, and the machine's limits in the same rounds."""

    point: Point
    threads: int
    timings: dict[str, Timing] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    fma_peaks: list[float] = field(default_factory=list)
    """Floating-point operations per second."""
    bandwidths: list[float] = field(default_factory=list)
    """Bytes per second at which the threads together read the recurrent weights, each its own share."""
    other_load: float | None = None
    """Cores that other processes kept busy meanwhile."""

    @contextlib.contextmanager
    def noting_failure(self, name: str) -> Iterator[None]:
        """Take a peer out of the row if its worker fails inside."""
        try:
            yield
        except WorkerError as failure:
            self.failures[name] = str(failure)
            self.timings.pop(name, None)

    @property
    def is_disturbed(self) -> bool:
        """Whether other processes were busy enough to make the row doubtful."""
        return self.other_load is not None and self.other_load > DISTURBED_ABOVE

    @property
    def ours(self) -> Timing | None:
        """Timing of rnnkernels."""
        return self.timings.get(OURS)

    @property
    def best_peer(self) -> str | None:
        """The one that is fastest beside what of ours it is compared with."""
        ratios = {name: r for name in self.timings if name not in (OURS, LAYERS) and (r := self.ratio(name))}
        return min(ratios, key=ratios.__getitem__, default=None)

    def ratio(self, peer: str | None) -> float | None:
        """Time of a peer over ours: over our layer's, if there is one, where the peer packs its weights once."""
        if peer is None or self.ours is None or peer not in self.timings:
            return None
        layer = self.timings.get(LAYERS) if PEERS[peer].packs_once else None
        return self.timings[peer].seconds / (layer or self.ours).seconds

    @property
    def flops(self) -> float:
        """Floating-point operations of the matrix products of one call."""
        return self._input_flops + self._recurrent_flops

    @property
    def _passes(self) -> int:
        """Products per weight matrix: forward, and for training the gradients of its input and of itself."""
        return 3 if self.point.task == "training" else 1

    @property
    def _input_flops(self) -> float:
        point = self.point
        return 2.0 * self._passes * point.N * point.T * point.D * point.columns

    @property
    def _recurrent_flops(self) -> float:
        point = self.point
        return 2.0 * self._passes * point.N * point.T * point.H * point.columns

    @property
    def peak_fraction(self) -> float | None:
        """Our operations per second over those of the FMA peak."""
        if self.ours is None or not self.fma_peaks:
            return None
        return self.flops / self.ours.seconds / float(np.median(self.fma_peaks))

    @property
    def limit_fraction(self) -> float | None:
        """Shortest possible time over ours.

        Matrix products run at the FMA peak at best. The serial ones, h @ Wh of every step and its counterpart in the
        backward pass, also have to read the whole of Wh each time, from the nearest cache that holds it.
        """
        if self.ours is None or not self.fma_peaks or self.point.task == "step":
            return None
        point, peak = self.point, float(np.median(self.fma_peaks))
        serial_passes = min(self._passes, 2)
        serial_flops = self._recurrent_flops * serial_passes / self._passes
        read = serial_passes * point.T * point.H * point.columns * point.item_bytes / float(np.median(self.bandwidths))
        return ((self.flops - serial_flops) / peak + max(serial_flops / peak, read)) / self.ours.seconds


def expected(point: Point) -> Arrays:
    """Results of a point in float64 from `rnnkernels.reference`."""
    arrays = {name: array.astype(np.float64) for name, array in make_arrays(point).items()}
    task = function_task(rnnkernels.reference, point, arrays)
    return task.outputs(task.ways[""]())


def errors(results: Arrays, truth: Arrays) -> tuple[float, float]:
    """Largest and root-mean-square differences as `Timing` has them; infinite for a wrong shape or NaN."""
    comparable = results.keys() == truth.keys() and all(
        results[name].shape == truth[name].shape and np.isfinite(results[name]).all() for name in truth
    )
    if not comparable:
        return math.inf, math.inf
    pairs = [(np.abs(results[name] - exact), np.abs(exact)) for name, exact in truth.items()]
    largest = max(float(np.max(difference) / np.max(size)) for difference, size in pairs)
    rms = max(float(np.linalg.norm(difference) / np.linalg.norm(size)) for difference, size in pairs)
    return largest, rms


class Team:
    """One worker for each peer and one for the machine's limits, all with the same number of threads."""

    def __init__(self, peers: Iterable[str], threads: int, all_ways: bool) -> None:
        self.threads = threads
        self.all_ways = all_ways
        self.peers = {
            name: Worker(Session, name, threads, threads=threads, variables=PEERS[name].variables(threads))
            for name in peers
        }
        self.limits = Worker(Limits, threads, threads=threads)

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self.peers.values(), self.limits):
            worker.close()

    def measure(self, point: Point, rounds: int, seconds: float) -> Row:
        """Build, compare, and time one point; a peer that fails is left out of the row and named in it."""
        row = Row(point, self.threads)
        calls_per_visit = self._prepare(row, seconds / rounds)
        visits = {
            name: rounds if calls > 1 else min(rounds, max(MINIMUM_VISITS, int(seconds / row.timings[name].best)))
            for name, calls in calls_per_visit.items()
        }
        names = list(calls_per_visit)
        workers = (*self.peers.values(), self.limits)
        other_load = OtherLoad([os.getpid(), *(worker.process_id for worker in workers)])
        for number in range(rounds):
            first = number % max(len(names), 1)
            for name in names[first:] + names[:first]:
                if number * visits[name] // rounds != (number - 1) * visits[name] // rounds:
                    self._visit(row, name, calls_per_visit[name])
            row.fma_peaks.append(self.limits.ask("fma_peak", point.dtype))
            share = point.H * point.columns * point.item_bytes // self.threads
            row.bandwidths.append(self.limits.ask("read_bandwidth", share))
        row.other_load = other_load.cores()
        return row

    def _prepare(self, row: Row, visit_seconds: float) -> dict[str, int]:
        """Build all peers at once, compare their results, and find how many calls make a visit."""
        point = row.point
        able = {n: w for n, w in self.peers.items() if not PEERS[n].lacks(point, self.threads)}
        for worker in able.values():
            worker.tell("build", point, self.all_ways)
        truth = expected(point)
        built = {}
        for name, worker in able.items():
            with row.noting_failure(name):
                built[name] = worker.hear()
        calls_per_visit = {}
        for name, build_seconds in built.items():
            with row.noting_failure(name):
                way, seconds, results = able[name].ask("choose")
                error, rms_error = errors(results, truth)
                if error > TOLERANCES[point.dtype]:
                    raise WorkerError(f"its results differ by {error:.1g} of the largest value")
                row.timings[name] = Timing(way, error, rms_error, build_seconds, best=seconds)
                calls_per_visit[name] = max(1, int(visit_seconds / seconds))
        return calls_per_visit

    def _visit(self, row: Row, name: str, calls: int) -> None:
        if name in row.failures:
            return
        with row.noting_failure(name):
            samples = self.peers[name].ask("measure", calls)
            timing = row.timings[name]
            timing.rounds.append(float(np.median(samples)))
            timing.best = min(timing.best, *samples)


def print_row(row: Row, before: Row | None, write: Callable[[str], None]) -> None:
    """Write a line of the table, and the head of the table before the first line of its kind."""
    point = row.point
    shown = [name for name in PEERS if name in row.timings or name in row.failures]
    kind = (point.cell, point.task, point.dtype, row.threads)
    if before is None or kind != (before.point.cell, before.point.task, before.point.dtype, before.threads):
        write(f"\n{kind_title(point)}, {row.threads} thread{'s' * (row.threads > 1)}: ms per call")
        titles = "".join(f"{PEERS[name].title:>13}" for name in shown)
        write(f"{'N, T, D, H':>17}  {'':<14}{titles}      best peer / ours   +-  GFLOP/s  of limit")
    cells = [f"{milliseconds(row.timings[n].seconds):>13}" if n in row.timings else f"{'-':>13}" for n in shown]
    line = f"{point.size:>17}{'*' if row.is_disturbed else ' '} {point.name:<14}{''.join(cells)}"
    if row.ours is not None:
        ratio = row.ratio(row.best_peer)
        rival = f"{ratio:6.2f} {PEERS[row.best_peer].title:<12}" if ratio and row.best_peer else ""
        limit = f"{row.limit_fraction:9.0%}" if row.limit_fraction else ""
        line += f"   {rival:<19} {row.ours.spread:4.0%} {row.flops / row.ours.seconds / 1e9:8.1f} {limit}"
    write(line)
    for name, reason in row.failures.items():
        write(f"{'':>19}{PEERS[name].title}: {reason}")


def kind_title(point: Point) -> str:
    """Cell, task and dtype in words."""
    task = {"step": "streaming step", "inference": "inference", "training": "training (forward + backward)"}
    return f"{point.traits.title} {task[point.task]} {point.dtype}"


def milliseconds(seconds: float) -> str:
    """Three significant digits, and no exponent."""
    digits = max(0, 2 - math.floor(math.log10(seconds * 1e3)))
    return f"{seconds * 1e3:.{digits}f}"


@dataclass
class Target:
    """A line of the summary: what should be reached by a figure that each row has or has not."""

    what: str
    goal: float
    figure: Callable[[Row], float | None]
    """A ratio; None for a row that does not count."""
    every: bool = False
    """Whether the goal is for each point, and not for the geometric mean of all."""
    floor: float | None = None
    """What each point should reach besides."""
    ceiling: bool = False
    """Whether to say what the means would be if rnnkernels reached `Row.limit_fraction` = 1 at each point."""


def _is(cell: str | None = None, task: str | None = None, dtype: str | None = "float32") -> Callable[[Row], bool]:
    def matches(row: Row) -> bool:
        point = row.point
        return (
            cell in (None, point.cell)
            and (task == point.task or (task is None and point.task != "step"))
            and dtype in (None, point.dtype)
        )

    return matches


def _against(peer: str | None, condition: Callable[[Row], bool]) -> Callable[[Row], float | None]:
    """Time of a peer, the best one if none is named, over ours."""
    return lambda row: row.ratio(peer or row.best_peer) if condition(row) else None


def _accuracy(row: Row) -> float | None:
    if row.ours is None or "torch" not in row.timings or row.point.dtype != "float32":
        return None
    return row.timings["torch"].rms_error / row.ours.rms_error if row.ours.rms_error else None


def _peak_fraction(task: str) -> Callable[[Row], float | None]:
    def figure(row: Row) -> float | None:
        counts = row.point.task == task and row.point.N >= 12 and row.point.H >= 128
        return row.peak_fraction if counts else None

    return figure


TARGETS = (
    Target(
        "LSTM inference float32, best peer / ours",
        1.2,
        _against(None, _is("lstm", "inference")),
        floor=1.0,
        ceiling=True,
    ),
    Target(
        "LSTM training float32, best peer / ours", 1.5, _against(None, _is("lstm", "training")), floor=1.0, ceiling=True
    ),
    Target("vanilla RNN float32, best peer / ours", 3.0, _against(None, _is("rnn")), ceiling=True),
    Target("GRU inference float32, best peer / ours", 1.15, _against(None, _is("gru", "inference")), ceiling=True),
    Target("GRU training float32, best peer / ours", 1.5, _against(None, _is("gru", "training")), ceiling=True),
    Target("float64 training, best peer / ours", 2.0, _against(None, _is(None, "training", "float64")), ceiling=True),
    Target("streaming step, ONNX Runtime / ours", 5.0, _against("onnxruntime", _is(None, "step")), every=True),
    Target("streaming step, PyTorch / ours", 15.0, _against("torch", _is(None, "step")), every=True),
    Target("of the FMA peak, inference, N >= 12, H >= 128", 0.85, _peak_fraction("inference"), every=True),
    Target("of the FMA peak, training, N >= 12, H >= 128", 0.80, _peak_fraction("training"), every=True),
    Target(
        "of the limit with Wh read from its cache, inference, N = 1",
        0.75,
        lambda row: row.limit_fraction if row.point.N == 1 and row.point.task == "inference" else None,
        every=True,
    ),
    Target("training, plain NumPy / ours", 5.0, _against("reference", _is(None, "training", None)), ceiling=True),
    Target("float32 root-mean-square error, PyTorch / ours", 1.0, _accuracy),
)


def print_summary(rows: list[Row], write: Callable[[str], None]) -> None:
    """Compare the rows with every target, as far as they have a figure for it."""
    thread_counts = sorted({row.threads for row in rows})
    heads = "".join(f"{f'{n} thr.':>8}" for n in thread_counts)
    write(f"\n{'Targets (geometric means of the points)':<62}{heads}   goal                 lowest")
    for target in TARGETS:
        figures = [(figure, row) for row in rows if (figure := target.figure(row)) is not None]
        if figures:
            _print_target(target, sorted(figures, key=lambda pair: pair[0]), thread_counts, write)
    if disturbed := sum(row.is_disturbed for row in rows):
        write(
            f"* {disturbed} of {len(rows)} points: other processes had more than {DISTURBED_ABOVE} of a core meanwhile"
        )


def _print_target(
    target: Target, figures: list[tuple[float, Row]], thread_counts: list[int], write: Callable[[str], None]
) -> None:
    """Write one line for a target, and one for each point below its floor; figures come in rising order."""
    means = [geometric_mean([figure for figure, row in figures if row.threads == n]) for n in thread_counts]
    lowest = figures[0][0]
    reached = lowest if target.every else geometric_mean([figure for figure, _ in figures])
    met = reached >= target.goal and (target.floor is None or lowest >= target.floor)
    goal = f"{'each' if target.every else 'mean'} >= {target.goal:<5g} {'met' if met else 'MISSED'}"
    line = f"{target.what:<62}{''.join(f'{mean:8.2f}' for mean in means)}   {goal:<20}"
    places = [f"{figure:.2f} at {row.point.cell} {row.point.size}, {row.threads} thr." for figure, row in figures]
    write(f"{line} {places[0]}")
    if target.floor is not None:
        for (figure, _), place in list(zip(figures, places, strict=True))[1:]:
            if figure < target.floor:
                write(f"{'':<{len(line)}} {place}")
    if target.ceiling:
        at_limit = [(figure / row.limit_fraction, row.threads) for figure, row in figures if row.limit_fraction]
        means = [geometric_mean([figure for figure, threads in at_limit if threads == n]) for n in thread_counts]
        write(f"{'  were ours at the limit of the machine':<62}{''.join(f'{mean:8.2f}' for mean in means)}")


def measure_own_figures() -> dict[str, float | None]:
    """What the targets ask of rnnkernels alone."""

    def ask_new_worker(method: str, *arguments: Any) -> Any:
        worker = Worker(OwnFigures, threads=1)
        try:
            return worker.ask(method, *arguments)
        finally:
            worker.close()

    sigmoid, tanh = ask_new_worker("largest_ulps", ULP_STRIDE)
    step_time_growth, scratch_bytes = ask_new_worker("growth", 10_000, 1_000_000)
    imported, cold, warm = ask_new_worker("start_seconds")
    return {
        "sigmoid_ulps": sigmoid,
        "tanh_ulps": tanh,
        "step_time_growth": step_time_growth,
        "scratch_mb": None if scratch_bytes is None else scratch_bytes / 1e6,
        "import_seconds": imported,
        "cold_start_seconds": cold,
        "warm_start_seconds": warm,
    }


ULP_STRIDE = 509
OWN_TARGETS = {
    "sigmoid_ulps": ("error of sigmoid over every 509th float32, units in the last place", 2.0),
    "tanh_ulps": ("error of tanh, likewise", 2.0),
    "step_time_growth": ("time of a step at T = 1e6 over that at T = 1e4, LSTM inference 1, T, 16, 64", 1.2),
    "scratch_mb": ("memory besides arguments and result at T = 1e6, likewise, MB", 16.0),
    "import_seconds": ("import, s", 1.0),
    "cold_start_seconds": ("first LSTM forward and backward, no disk cache, s", 10.0),
    "warm_start_seconds": ("first LSTM forward and backward, disk cache, s", 0.5),
}


def print_own_figures(figures: dict[str, float | None], write: Callable[[str], None]) -> None:
    """Compare them with their targets."""
    for key, (what, goal) in OWN_TARGETS.items():
        figure = figures.get(key)
        if figure is not None:
            write(f"{what:<80}{figure:9.2f}   <= {goal:<5g} {'met' if figure <= goal else 'MISSED'}")


def geometric_mean(values: list[float]) -> float:
    """NaN of an empty list."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def draw(rows: list[Row], run: dict[str, Any], path: Path) -> None:
    """Chart of best peer / ours: a panel for each cell and task, a bar for each point and number of threads."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = {"inference": "inference", "step": "inference", "training": "training"}
    shown = [row for row in rows if row.ratio(row.best_peer)]
    cells = [cell for cell in CELLS if any(row.point.cell == cell for row in shown)]
    labels = {cell: list(dict.fromkeys(chart_label(r.point) for r in shown if r.point.cell == cell)) for cell in cells}
    thread_counts = sorted({row.threads for row in shown})
    colours = ["#1f5a94", "#e08a1e", "#4d9221", "#8c4799"]
    if not shown:
        return

    heights = [len(labels[cell]) + 1 for cell in cells]
    figure = Figure(figsize=(11, 1.6 + 0.42 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(cells), 2, sharex=True, squeeze=False, height_ratios=heights)
    ratios = [ratio for row in shown if (ratio := row.ratio(row.best_peer))]
    left, right = min(0.7, *ratios) / 1.15, max(2.0, *ratios) * 2.2
    for cell, line in zip(cells, axes, strict=True):
        for panel, ax in zip(("inference", "training"), line, strict=True):
            members = [row for row in shown if row.point.cell == cell and panels[row.point.task] == panel]
            _draw_panel(ax, members, labels[cell], thread_counts, colours)
            ax.set_title(f"{CELLS[cell].title} {panel}", loc="left", fontsize=10)
            ax.set_xscale("log", base=2)
            ax.set_xlim(left, right)
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
            ax.tick_params(labelbottom=True, labelleft=panel == "inference")
            ax.axvspan(left, 1, color="#f6e3e0", zorder=0)
    for ax in axes[-1]:
        ax.set_xlabel("time of the best peer / time of rnnkernels", fontsize=9)
    figure.suptitle(
        "rnnkernels beside the fastest of PyTorch, ONNX Runtime, OpenVINO, JAX and NumPy at each point\n"
        f"{run['processor']}, {run['cores']} cores; right of 1x rnnkernels is faster",
        fontsize=11,
    )
    handles = [
        Patch(color=colour, label=f"{n} thread{'s' * (n > 1)}")
        for n, colour in zip(thread_counts, colours, strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def _draw_panel(ax: Any, rows: list[Row], labels: list[str], thread_counts: list[int], colours: list[str]) -> None:
    height = 0.8 / len(thread_counts)
    for row in rows:
        ratio = row.ratio(row.best_peer)
        if ratio is None or row.best_peer is None:
            continue
        index = thread_counts.index(row.threads)
        y = labels.index(chart_label(row.point)) + (index - (len(thread_counts) - 1) / 2) * height
        ax.barh(y, ratio - 1, height * 0.9, left=1, color=colours[index % len(colours)], zorder=2)
        ax.annotate(
            f"{ratio:.2g} {PEERS[row.best_peer].title}" if ratio >= 10 else f"{ratio:.2f} {PEERS[row.best_peer].title}",
            (max(ratio, 1), y), (4, 0), textcoords="offset points", va="center", fontsize=7, color="#444444",
        )  # fmt: skip
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="x", labelsize=8)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#dddddd", linewidth=0.6, zorder=0)
    ax.axvline(1, color="#333333", linewidth=1, zorder=3)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def chart_label(point: Point) -> str:
    """Name and sizes of a point, and its dtype if it is not float32."""
    return f"{point.name}  {point.size}" + (f"  {point.dtype}" if point.dtype != "float32" else "")


def save(rows: list[Row], run: dict[str, Any], path: Path) -> None:
    """Write every round of every row as JSON."""
    record = run | {"rows": [dataclasses.asdict(row) for row in rows]}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load(paths: Iterable[Path]) -> tuple[list[Row], dict[str, Any]]:
    """Rows of earlier runs on one machine; a later file replaces the rows that it has, too."""
    rows: dict[tuple[Point, int], Row] = {}
    run: dict[str, Any] = {}
    for path in paths:
        run |= json.loads(path.read_text(encoding="utf-8"))
        for record in run.pop("rows"):
            record["point"] = Point(**record["point"])
            record["timings"] = {name: Timing(**timing) for name, timing in record["timings"].items()}
            row = Row(**record)
            rows[row.point, row.threads] = row
    order = {point: number for number, (point, _) in enumerate(grid())}
    return sorted(rows.values(), key=lambda row: (row.threads, order.get(row.point, len(order)))), run


def report(rows: list[Row], run: dict[str, Any], folder: Path, write: Callable[[str], None]) -> None:
    """Summary on the terminal, chart and JSON in the folder."""
    if not rows:
        return
    print_summary(rows, write)
    print_own_figures(run.get("own_figures", {}), write)
    folder.mkdir(parents=True, exist_ok=True)
    save(rows, run, folder / "peers.json")
    draw(rows, run, folder / "peers.png")
    write(f"\n{folder / 'peers.json'} has every round, {folder / 'peers.png'} is the chart.")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""

    def names(allowed: Iterable[str]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            if unknown := set(text.split(",")) - set(allowed):
                raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(allowed)}")
            return text.split(",")

        return parse

    def counts(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a selection of points, short rounds, and one way to use each peer"
    )
    parser.add_argument("--list", action="store_true", help="show the points and measure nothing")
    parser.add_argument("--show", nargs="+", type=Path, metavar="JSON", help="table and chart of earlier runs")
    parser.add_argument("--points", default="", metavar="PATTERN", help="regular expression for the lines of --list")
    cells = available_cells(rnnkernels)
    parser.add_argument("--cells", type=names(cells), help=",".join(cells))
    parser.add_argument("--dtypes", type=names(TOLERANCES), help="float32,float64")
    parser.add_argument("--threads", type=counts, help="numbers of threads (default: 1 and all cores)")
    parser.add_argument("--peers", type=names(PEERS), help=",".join(PEERS))
    parser.add_argument("--rounds", type=int, help="visits to each peer at each point (default: 7; quick: 3)")
    parser.add_argument("--seconds", type=float, help="time for each peer at each point (default: 1.4; quick: 0.2)")
    parser.add_argument("--without-own", action="store_true", help="skip start time, growth with T, and accuracy")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder of peers.json, peers.png")
    return parser.parse_args()


def main() -> int:
    """Run the comparison; 130 after Ctrl-C, 1 if rnnkernels failed anywhere."""
    options = parse_arguments()
    if options.show:
        rows, run = load(options.show)
        for before, row in zip([None, *rows], rows, strict=False):
            print_row(row, before, print)
        report(rows, run, options.out, print)
        return 0

    points = [
        point
        for point, quick in grid()
        if (quick or not options.quick)
        and re.search(options.points, str(point))
        and point.cell in (options.cells or point.cell)
        and point.dtype in (options.dtypes or point.dtype)
    ]
    if options.list:
        print(*points, sep="\n")
        return 0
    peers = []
    for name in options.peers or PEERS:
        if lacking := absent(name):
            print(f"{PEERS[name].title} is left out: {', '.join(lacking)} not installed ({INSTALL})")
        else:
            peers.append(name)

    run = describe_run()
    print(f"{run['processor']}, {run['cores']} cores, caches {run['caches']}, {run['system']}")
    print(", ".join(f"{name} {version}" for name, version in run["versions"].items()))
    rows = []
    status = 0
    try:
        measure(points, peers, options, rows)
        if not options.without_own:
            run["own_figures"] = measure_own_figures()
    except KeyboardInterrupt:
        status = 130
    report(rows, run, options.out, print)
    return status or int(any({OURS, LAYERS} & row.failures.keys() for row in rows))


def measure(points: list[Point], peers: list[str], options: argparse.Namespace, rows: list[Row]) -> None:
    """Append a row for each point and number of threads, and show it."""
    rounds = options.rounds or (3 if options.quick else 7)
    seconds = options.seconds or (0.2 if options.quick else 1.4)
    thread_counts = options.threads or sorted({1, physical_cores()})
    with tqdm(total=len(points) * len(thread_counts), unit="point", dynamic_ncols=True, leave=False) as bar:
        write = functools.partial(bar.write, file=sys.stdout)
        for threads in thread_counts:
            with Team(peers, threads, all_ways=not options.quick) as team:
                for point in points:
                    bar.set_postfix_str(f"{point}, {threads} thr.")
                    row = team.measure(point, rounds, seconds)
                    if row.is_disturbed and not options.quick:
                        row = min(row, team.measure(point, rounds, seconds), key=lambda row: row.other_load or 0)
                    print_row(row, rows[-1] if rows else None, write)
                    rows.append(row)
                    bar.update()


if __name__ == "__main__":
    sys.exit(main())
