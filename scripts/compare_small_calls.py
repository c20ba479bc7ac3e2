#!/usr/bin/env python3
"""Measure small calls of rnnkernels beside plain NumPy and PyTorch's cells: what a call costs besides its arithmetic.

    python scripts/compare_small_calls.py                              all tables, float32 and float64
    python scripts/compare_small_calls.py --quick                      a selection, within a minute
    python scripts/compare_small_calls.py --functions "lstm_step.*32"  calls whose line in --list matches
    python scripts/compare_small_calls.py --plot small_calls.png       the chart, too

Tables (``--tables``):

functions    all functions, as a program calls them, at eight sizes N, T, D, H, V; the affine layer goes from H to V,
             sigmoid takes N x T x H elements
steps        one step forward and one step backward of each cell, D = H; PyTorch's cells beside them if torch is there:
             forward in inference mode, backward by autograd on a graph that is kept
short        few steps in a call: inference without a cache (`*_inference`), and forward with backward (`*_training`)
mixed        states of float64 beside x and weights of float32; `like` is the same call with states of float32

Everything runs in this process on one thread, NumPy's BLAS and PyTorch too. The calls of a point are timed in turn, as
many a visit as take half a millisecond, and medians of the visits are compared. Their results are compared as well.
A call is too slow if it takes more than 1.05 times as long as plain NumPy and 1.5 us in the median of the rounds, each
compared with its own NumPy: what slows the machine down for a while slows both down. A point that is too slow is
measured again, with three times as many rounds, if that can change the verdict. Ctrl-C ends the measurement and shows
what there is.

Exit status: 0 if no call is too slow, 1 if one is, 2 if a call fails or its results are wrong, or there is nothing to
measure, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import gc
import importlib.util
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INSTALL = 'python -m pip install -e ".[train]"'

try:
    import numpy as np
    from _cells import available_cells
    from _peers import Arrays, Point, PyTorch, Task, describe_run, function_task, make_arrays
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    import rnnkernels
    from rnnkernels import reference
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed for {sys.executable}; {INSTALL} installs what this script needs.")

OURS, NUMPY, TORCH, LIKE = "rnnkernels", "NumPy", "PyTorch", "like"

ALLOWED_RATIO = 1.05
ALLOWED_SECONDS = 1.5e-6
"""A call may take so many times what plain NumPy takes, and so long besides."""

MEAN_GOAL = 2.0
"""Geometric mean of NumPy's times over ours."""

DEFAULT_ROUNDS, QUICK_ROUNDS = 21, 9
VISIT_SECONDS = 0.5e-3
POINT_SECONDS = 0.5
MINIMUM_ROUNDS = 5
"""A point ends after its rounds, or as soon as it has used up its time, but not before so many rounds."""

MORE_ROUNDS = 3
HOPELESS = 1.5
"""A point that seems too slow gets so many times the rounds, unless it takes longer than so many times the limit."""

TOLERANCES = {"float32": 1e-4, "float64": 1e-10}
"""Largest difference from plain NumPy, as a share of the largest value of an array."""

SIZES = (
    (2, 3, 4, 5, 6),
    (3, 10, 8, 6, 9),
    (1, 1, 32, 32, 50),
    (2, 3, 20, 40, 40),
    (4, 13, 30, 40, 60),
    (1, 17, 256, 512, 1000),
    (25, 17, 256, 512, 1000),
    (50, 10, 64, 128, 100),
)
STEP_BATCHES = (1, 2, 8, 25, 50, 100)
STEP_UNITS = (8, 16, 32, 64, 128, 256, 512)
SHORT_LENGTHS = (1, 2, 5, 10, 20)
SHORT_BATCHES = (1, 8)
SHORT_UNITS = (32, 128, 512)

QUICK_SIZES = {(1, 1, 32, 32, 50), (4, 13, 30, 40, 60), (50, 10, 64, 128, 100)}
QUICK_BATCHES, QUICK_UNITS, QUICK_LENGTHS = {1, 8}, {32, 512}, {1, 10}

TABLES = ("functions", "steps", "short", "mixed")


@dataclass(frozen=True)
class Entry:
    """A call at one size."""

    table: str
    function: str
    dtype: str
    N: int
    T: int
    D: int
    H: int
    V: int = 0

    @property
    def size(self) -> str:
        """The sizes as the tables write them; V only where there is one."""
        return ", ".join(str(size) for size in (self.N, self.T, self.D, self.H, self.V) if size)

    def __str__(self) -> str:
        return f"{self.table} {self.function} {self.dtype} {self.size.replace(' ', '')}"


CELL_TASKS = {
    "forward": "forward",
    "backward": "backward",
    "step_forward": "step",
    "step_backward": "step_backward",
    "inference": "inference",
    "training": "training",
}
"""Tasks of `_peers` by what stands behind the name of a cell."""


def cell_point(entry: Entry) -> Point | None:
    """The point of `_peers` that an entry is; None for the layers that are no cells."""
    cell, _, scope = entry.function.partition("_")
    if cell not in available_cells(rnnkernels):
        return None
    return Point(entry.table, cell, CELL_TASKS[scope], entry.dtype, entry.N, entry.T, entry.D, entry.H)


def cell_task(functions: Any, point: Point, arrays: Arrays) -> Task:
    """The point's call by functions with the names of rnnkernels; only ours can be told to keep no cache."""
    options = {"keep_cache": False} if functions is rnnkernels else {}
    return function_task(functions, point, arrays, **options)


@functools.lru_cache(maxsize=1)
def layer_arrays(N: int, T: int, D: int, H: int, V: int, dtype: str) -> Arrays:
    """Arguments of the layers that are no cells."""
    rng = np.random.default_rng(0)
    reals = {"W": (V, D), "d_embedded": (N, T, D), "h": (N, T, H), "w": (H, V), "b": (V,), "scores": (N, T, V)}
    arrays = {name: rng.standard_normal(shape, dtype=np.float32).astype(dtype) for name, shape in reals.items()}
    return arrays | {"words": rng.integers(V, size=(N, T)), "mask": rng.random((N, T)) < 0.9}


def layer_call(functions: Any, function: str, arrays: Arrays) -> Callable[[], Any]:
    """A layer that is no cell, by functions with the names of rnnkernels."""
    names, gradient = LAYERS[function]
    call, inputs = getattr(functions, function), [arrays[name] for name in names]
    if not gradient:
        return functools.partial(call, *inputs)
    _, cache = getattr(functions, function.replace("_backward", "_forward"))(*inputs)
    return functools.partial(call, arrays[gradient], cache)


LAYERS = {
    "word_embedding_forward": (("words", "W"), ""),
    "word_embedding_backward": (("words", "W"), "d_embedded"),
    "sigmoid": (("h",), ""),
    "temporal_affine_forward": (("h", "w", "b"), ""),
    "temporal_affine_backward": (("h", "w", "b"), "scores"),
    "temporal_softmax_loss": (("scores", "words", "mask"), ""),
    "temporal_affine_softmax_loss": (("h", "w", "b", "words", "mask"), ""),
}
"""Arguments of a function, or of the forward pass before it and the gradient that arrives."""


def layer_outputs(results: Any) -> Arrays:
    """What a layer that is no cell has returned, less its cache."""
    parts = results if isinstance(results, tuple) else (results,)
    return {str(i): np.asarray(r) for i, r in enumerate(parts) if isinstance(r, np.ndarray | np.floating)}


def tasks(entry: Entry, torch: PyTorch | None) -> dict[str, Task]:
    """What is timed at a point, by contestant."""
    point = cell_point(entry)
    if point is None:
        arrays = layer_arrays(entry.N, entry.T, entry.D, entry.H, entry.V, entry.dtype)
        return {
            name: Task({"": layer_call(functions, entry.function, arrays)}, layer_outputs)
            for name, functions in ((OURS, rnnkernels), (NUMPY, reference))
        }
    arrays = make_arrays(point)
    if entry.table != "mixed":
        contest = {name: cell_task(f, point, arrays) for name, f in ((OURS, rnnkernels), (NUMPY, reference))}
        if torch is not None and entry.table == "steps":
            contest[TORCH] = torch.make(point, arrays)
        return contest
    wide = arrays | {f"{name}0": arrays[f"{name}0"].astype(np.float64) for name in point.traits.states}
    return {
        OURS: cell_task(rnnkernels, point, wide),
        NUMPY: cell_task(reference, point, wide),
        LIKE: cell_task(rnnkernels, point, arrays),
    }


def entries() -> Iterator[tuple[Entry, bool]]:
    """All calls in the order of the tables, each with whether `--quick` has it."""
    cells = available_cells(rnnkernels)
    scopes = ("step_forward", "step_backward", "forward", "backward")
    functions = [*(f"{cell}_{scope}" for cell in cells for scope in scopes), *LAYERS]
    for dtype, sizes, function in itertools.product(TOLERANCES, SIZES, functions):
        yield Entry("functions", function, dtype, *sizes), sizes in QUICK_SIZES
    for dtype, cell, scope in itertools.product(TOLERANCES, cells, scopes[:2]):
        for N, H in itertools.product(STEP_BATCHES, STEP_UNITS):
            yield Entry("steps", f"{cell}_{scope}", dtype, N, 1, H, H), N in QUICK_BATCHES and H in QUICK_UNITS
    for dtype, cell, task in itertools.product(TOLERANCES, cells, ("inference", "training")):
        for T, N, H in itertools.product(SHORT_LENGTHS, SHORT_BATCHES, SHORT_UNITS):
            yield Entry("short", f"{cell}_{task}", dtype, N, T, H, H), T in QUICK_LENGTHS and H in QUICK_UNITS
    for cell, scope in itertools.product(cells, ("step_forward", "inference", "training")):
        for N, H in itertools.product(SHORT_BATCHES, SHORT_UNITS):
            T = 1 if scope == "step_forward" else 10
            yield Entry("mixed", f"{cell}_{scope}", "float32", N, T, H, H), H in QUICK_UNITS


@dataclass
class Row:
    """A call at one size, and what its contestants took."""

    entry: Entry
    rounds: dict[str, list[float]] = field(default_factory=dict)
    """Seconds per call of each visit."""
    failure: str = ""

    def seconds(self, name: str) -> float:
        """Median of the visits; NaN for a contestant that was not there."""
        return float(np.median(self.rounds[name])) if self.rounds.get(name) else math.nan

    def ratio(self, name: str = NUMPY) -> float:
        """Time of a contestant over ours."""
        return self.seconds(name) / self.seconds(OURS)

    @property
    def overrun(self) -> float:
        """Time of our call over the time that it may take; the median of the rounds, each with its own NumPy."""
        pairs = zip(self.rounds[OURS], self.rounds[NUMPY], strict=True)
        return float(np.median([ours / (ALLOWED_RATIO * plain + ALLOWED_SECONDS) for ours, plain in pairs]))

    @property
    def is_too_slow(self) -> bool:
        """Whether it takes longer."""
        return self.overrun > 1


def measure(row: Row, torch: PyTorch | None, rounds: int) -> None:
    """Compare the results of all contestants, then time them in turn."""
    contest = tasks(row.entry, torch)
    calls = {name: next(iter(task.ways.values())) for name, task in contest.items()}
    row.failure = differences(row.entry, {name: task.outputs(calls[name]()) for name, task in contest.items()})
    if row.failure:
        return
    numbers = {name: calls_per_visit(call) for name, call in calls.items()}
    row.rounds = {name: [] for name in calls}
    _visits(row, calls, numbers, rounds)
    if 1 < row.overrun < HOPELESS:
        _visits(row, calls, numbers, MORE_ROUNDS * rounds)


def _visits(row: Row, calls: dict[str, Callable[[], Any]], numbers: dict[str, int], rounds: int) -> None:
    names = list(calls)
    end = time.perf_counter() + POINT_SECONDS * rounds / DEFAULT_ROUNDS
    for number in range(rounds):
        if number >= MINIMUM_ROUNDS and time.perf_counter() > end:
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            row.rounds[name].append(visit(calls[name], numbers[name]))


def differences(entry: Entry, results: dict[str, Arrays]) -> str:
    """Which results differ from plain NumPy's by more than rounding errors; empty if none do."""
    truth = results[NUMPY]
    for contestant, named in results.items():
        for name, exact in truth.items():
            got = named.get(name)
            if got is None or got.shape != exact.shape:
                return f"{contestant}: {name} has shape {None if got is None else got.shape}, not {exact.shape}"
            error, size = (float(np.max(np.abs(a), initial=0.0)) for a in (got - exact, exact))
            if not error <= TOLERANCES[entry.dtype] * max(size, 1e-30):
                return f"{contestant}: {name} differs by {error:.1g} where the largest value is {size:.1g}"
    return ""


def calls_per_visit(call: Callable[[], Any]) -> int:
    """How many calls take as long as a visit should, from one call, then ten, and so on."""
    number = 1
    while (seconds := visit(call, number)) * number < VISIT_SECONDS / 10:
        number *= 10
    return max(1, round(VISIT_SECONDS / seconds))


def visit(call: Callable[[], Any], number: int) -> float:
    """Seconds per call; the first call, which finds what the others have left in the caches, does not count."""
    clock, repeat = time.perf_counter, itertools.repeat
    gc.disable()
    try:
        if number > 1:
            call()
        begin = clock()
        for _ in repeat(None, number):
            call()
        return (clock() - begin) / number
    finally:
        gc.enable()


def microseconds(seconds: float) -> str:
    """Three significant digits, and no exponent."""
    if not seconds > 0:
        return "-"
    digits = max(0, 2 - math.floor(math.log10(seconds * 1e6)))
    return f"{seconds * 1e6:.{digits}f}"


def print_row(row: Row, before: Row | None, write: Callable[[str], None]) -> None:
    """Write a line of a table, and its head before the first line."""
    entry = row.entry
    kind = entry.table, entry.dtype
    others = {"steps": TORCH, "mixed": LIKE}
    other = others.get(entry.table, "")
    if before is None or kind != (before.entry.table, before.entry.dtype):
        sizes = "N, T, D, H, V" if entry.V else "N, T, D, H"
        extra = f"{other:>11}{other + ' / ours':>16}" if other else ""
        write(f"\n{entry.table}, {entry.dtype}, 1 thread: us per call")
        write(f"{'':<26}{sizes:>22}{OURS:>12}{NUMPY:>11}{'NumPy / ours':>14}{extra}")
    line = f"{entry.function:<26}{entry.size:>22}"
    if row.failure:
        write(f"{line}  {row.failure}")
        return
    line += f"{microseconds(row.seconds(OURS)):>12}{microseconds(row.seconds(NUMPY)):>11}{row.ratio():>14.2f}"
    if row.rounds.get(other):
        line += f"{microseconds(row.seconds(other)):>11}{row.ratio(other):>16.2f}"
    write(line + ("  too slow" if row.is_too_slow else ""))


def geometric_mean(values: Iterable[float]) -> float:
    """NaN of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def print_summary(rows: list[Row], write: Callable[[str], None]) -> None:
    """Means and lowest ratios of the tables, and what is too slow or wrong, worst first."""
    measured = [row for row in rows if not row.failure]
    write(f"\n{'Plain NumPy / ours':<26}{'points':>8}{'mean':>8}{'lowest':>8}  too slow   at")
    for title, members in _groups(measured):
        lowest = min(members, key=Row.ratio)
        slow = sum(row.is_too_slow for row in members)
        mean = geometric_mean(row.ratio() for row in members)
        write(f"{title:<26}{len(members):>8}{mean:>8.2f}{lowest.ratio():>8.2f}{slow:>10}   {lowest.entry}")
    for name, what in ((TORCH, "PyTorch's cells / ours"), (LIKE, "states of float32 / of float64, ours")):
        ratios = [(row.ratio(name), row) for row in measured if row.rounds.get(name)]
        if ratios:
            ratio, lowest = min(ratios, key=lambda pair: pair[0])
            mean = geometric_mean(ratio for ratio, _ in ratios)
            write(f"{what}: {len(ratios)} points, mean {mean:.2f}, lowest {ratio:.2f} at {lowest.entry}")

    slow_rows = sorted((row for row in measured if row.is_too_slow), key=lambda row: -row.overrun)
    if measured:
        mean = geometric_mean(row.ratio() for row in measured)
        write(f"\nMean {mean:.2f}, goal {MEAN_GOAL:g}: {'met' if mean >= MEAN_GOAL else 'MISSED'}")
        rule = f"longer than {ALLOWED_RATIO:g} x NumPy + {ALLOWED_SECONDS * 1e6:g} us"
        write(f"{len(slow_rows)} of {len(measured)} calls take {rule}{':' if slow_rows else ''}")
    for row in slow_rows:
        ours, plain = (microseconds(row.seconds(name)) for name in (OURS, NUMPY))
        write(f"  {row.entry}: {ours} us, NumPy {plain} us, {row.overrun:.2f} of what is allowed")
    for row in rows:
        if row.failure:
            write(f"  {row.entry}: {row.failure}")


def _groups(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Each table and dtype, and everything; the empty ones are left out."""
    kinds = dict.fromkeys((row.entry.table, row.entry.dtype) for row in rows)
    for table, dtype in kinds:
        yield f"{table}, {dtype}", [row for row in rows if (row.entry.table, row.entry.dtype) == (table, dtype)]
    if len(kinds) > 1:
        yield "all", rows


def save(rows: list[Row], run: dict[str, Any], path: Path) -> None:
    """Write every visit of every row as JSON."""
    record = run | {"rows": [dataclasses.asdict(row) for row in rows]}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def draw(rows: list[Row], run: dict[str, Any], path: Path) -> None:
    """Chart of the ratios over the time of the yardstick: a panel for NumPy and one for PyTorch's cells."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    yardsticks = [name for name in (NUMPY, TORCH) if any(row.rounds.get(name) for row in rows)]
    if not yardsticks:
        return
    ratios = [row.ratio(name) for row in rows for name in yardsticks if row.rounds.get(name)]
    colours = dict(zip(TABLES, ("#1f5a94", "#e08a1e", "#4d9221", "#8c4799"), strict=True))
    figure = Figure(figsize=(2 + 5 * len(yardsticks), 4.8), layout="constrained")
    for ax, name in zip(figure.subplots(1, len(yardsticks), squeeze=False, sharey=True)[0], yardsticks, strict=True):
        for (table, dtype), members in itertools.groupby(rows, key=lambda row: (row.entry.table, row.entry.dtype)):
            points = [(1e6 * row.seconds(name), row.ratio(name)) for row in members if row.rounds.get(name)]
            if points:
                face = colours[table] if dtype == "float32" else "none"
                ax.scatter(
                    *zip(*points, strict=True),
                    s=14,
                    facecolors=face,
                    edgecolors=colours[table],
                    linewidths=0.8,
                    zorder=2,
                )
        seconds = [row.seconds(name) for row in rows if row.rounds.get(name)]
        low, high = 0.7e6 * min(seconds), 1.4e6 * max(seconds)
        if name == NUMPY:
            times = np.geomspace(low, high, 200)
            allowed = times / (ALLOWED_RATIO * times + 1e6 * ALLOWED_SECONDS)
            ax.plot(times, allowed, color="#b03030", linewidth=1)
            ax.fill_between(times, allowed, 1e-3, color="#f6e3e0", zorder=0)
        ax.axhline(1, color="#333333", linewidth=0.8)
        ax.set_xscale("log")
        ax.set_yscale("log", base=2)
        ax.set_xlim(low, high)
        ax.set_ylim(min(0.5, *ratios) / 1.2, max(2.0, *ratios) * 1.2)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        title = "plain NumPy" if name == NUMPY else "PyTorch's cells"
        ax.set_xlabel(f"time of a call of {title}, us")
        ax.set_title(f"time of {title} / time of rnnkernels", loc="left", fontsize=10)
        ax.grid(color="#e4e4e4", linewidth=0.6, zorder=0)
    shown = dict.fromkeys((row.entry.table, row.entry.dtype) for row in rows)
    handles: list[Any] = [
        Line2D([], [], linestyle="", marker="o", markersize=4, color=colours[table], label=f"{table}, {dtype}",
               markerfacecolor=colours[table] if dtype == "float32" else "none")
        for table, dtype in shown
    ]  # fmt: skip
    handles.append(Line2D([], [], color="#b03030", linewidth=1, label="slowest allowed"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(f"Small calls on one thread, {run['processor']}; above 1x rnnkernels is faster", fontsize=11)
    figure.savefig(path, dpi=150)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def names(allowed: Iterable[str]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            if unknown := set(text.split(",")) - set(allowed):
                raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(allowed)}")
            return text.split(",")

        return parse

    def pattern(text: str) -> re.Pattern[str]:
        try:
            return re.compile(text)
        except re.error as error:
            raise argparse.ArgumentTypeError(f"{text} is no regular expression: {error}") from None

    def sizes(text: str) -> tuple[int, ...]:
        numbers = tuple(int(part) for part in text.split(",") if part.strip().isdecimal())
        if len(numbers) != 5 or not all(numbers) or len(text.split(",")) != 5:
            raise argparse.ArgumentTypeError(f"{text}: five positive numbers N,T,D,H,V are needed")
        return numbers

    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text}: must be a number of at least 1")
        return int(text)

    def writable(text: str) -> Path:
        path = Path(text)
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise argparse.ArgumentTypeError(f"{text}: must be a file in a folder that exists")
        return path

    parser.add_argument("--quick", action="store_true", help="a selection of sizes, and fewer rounds")
    parser.add_argument("--list", action="store_true", help="show the calls and measure nothing")
    parser.add_argument("--tables", type=names(TABLES), help=f"{','.join(TABLES)} (default: all)")
    parser.add_argument("--dtypes", type=names(TOLERANCES), help=f"{','.join(TOLERANCES)} (default: both)")
    parser.add_argument(
        "--functions",
        type=pattern,
        default=pattern(""),
        metavar="REGEX",
        help="only calls whose line in --list matches",
    )
    parser.add_argument(
        "--sizes",
        type=sizes,
        nargs="+",
        metavar="N,T,D,H,V",
        help="only the functions, at these sizes instead of the eight",
    )
    parser.add_argument(
        "--rounds",
        type=count,
        help=f"visits to each call (default: {DEFAULT_ROUNDS}, quick: {QUICK_ROUNDS}; fewer where a call takes long)",
    )
    parser.add_argument("--without-torch", action="store_true", help="do not measure PyTorch's cells")
    parser.add_argument("--json", type=writable, metavar="FILE", help="write every visit, the machine and the versions")
    parser.add_argument(
        "--plot", type=writable, metavar="FILE", help="draw the chart (PNG, SVG or PDF; needs matplotlib)"
    )
    options = parser.parse_args(arguments)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error(f"--plot needs matplotlib, which is not installed; {INSTALL} installs it")
    return options


def chosen_entries(options: argparse.Namespace) -> list[Entry]:
    """What the command line asks for."""
    everything = list(entries())
    if options.sizes:
        first = [entry for entry, _ in everything if entry.table == "functions" and entry.size == everything[0][0].size]
        everything = [
            (dataclasses.replace(entry, **dict(zip("NTDHV", size, strict=True))), True)
            for dtype in TOLERANCES
            for size in options.sizes
            for entry in first
            if entry.dtype == dtype
        ]
    return [
        entry
        for entry, quick in everything
        if (quick or not options.quick)
        and entry.table in (options.tables or TABLES)
        and entry.dtype in (options.dtypes or TOLERANCES)
        and options.functions.search(str(entry))
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure and report; the exit status is that of the module's text."""
    options = parse_arguments(arguments)
    chosen = chosen_entries(options)
    if not chosen:
        print("No call matches; --list shows all.", file=sys.stderr)
        return 2
    if options.list:
        print(*chosen, sep="\n")
        return 0

    rows: list[Row] = []
    interrupted = False
    run = describe_run()
    print(f"{run['processor']}, {run['cores']} cores, caches {run['caches']}, {run['system']}")
    print(", ".join(f"{name} {version}" for name, version in run["versions"].items()))
    threads = rnnkernels.get_num_threads()
    try:
        torch = make_torch(options, chosen)
        with threadpool_limits(limits=1):
            rnnkernels.set_num_threads(1)
            run_all(chosen, torch, options.rounds or (QUICK_ROUNDS if options.quick else DEFAULT_ROUNDS), rows)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        rnnkernels.set_num_threads(threads)
    print_summary(rows, print)
    if options.json:
        save(rows, run, options.json)
    if options.plot:
        draw([row for row in rows if not row.failure], run, options.plot)
    if interrupted:
        return 130
    if any(row.failure for row in rows):
        return 2
    return int(any(row.is_too_slow for row in rows))


def make_torch(options: argparse.Namespace, chosen: list[Entry]) -> PyTorch | None:
    """PyTorch with one thread, where it is installed, asked for and needed."""
    if options.without_torch or not any(entry.table == "steps" for entry in chosen):
        return None
    if importlib.util.find_spec("torch") is None:
        print("PyTorch's cells are left out: torch is not installed.")
        return None
    return PyTorch(1)


def run_all(chosen: list[Entry], torch: PyTorch | None, rounds: int, rows: list[Row]) -> None:
    """Append a row for each call, and show it."""
    with tqdm(chosen, unit="call", dynamic_ncols=True, leave=False, disable=None) as bar:
        write = functools.partial(bar.write, file=sys.stdout)
        for entry in bar:
            bar.set_postfix_str(str(entry), refresh=False)
            row = Row(entry)
            try:
                measure(row, torch, rounds)
            except Exception as error:  # one call that fails must not hide the others
                row.failure, row.rounds = f"{type(error).__name__}: {error}", {}
            print_row(row, rows[-1] if rows else None, write)
            rows.append(row)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
