#!/usr/bin/env python3
"""Train a recurrent forecaster on a long series through rnnkernels, and let it go on by itself.

    python scripts/forecast_series.py                              the Lorenz system: 82 s of processor time
    python scripts/forecast_series.py --quick                      the same, shorter: 8 s
    python scripts/forecast_series.py --quick --system oscillators --cell gru --layers 2   a chain of springs: 15 s
    python scripts/forecast_series.py --data FILE.npy --checkpoint-every 16   a series (T, D) of one's own

The series is computed by the Runge-Kutta method of fourth order, or read from --data, and lies in a file that is mapped
into memory and read window by window. The model, layers of an LSTM, GRU or vanilla RNN and an affine layer, says how
the series changes from one step to the next. It is trained by truncated back-propagation through time, with Adam and
clipped gradients. The loss is the mean squared error as a part of that of the naive forecast, that nothing changes.

Then it forecasts the last tenth of the series, which it was not trained on, from several places at once: a stream reads
some steps, and from then on takes each prediction as its next input. The errors at some steps, and how long they stay
small, are printed beside those of the naive forecast.

OUT receives series.npy, unless --data is such a file, forecast.npz with weights, losses and forecasts, and
forecast.png. Ctrl-C ends the training; the forecast is made with what was learned until then. The same seed gives the
same weights, bit for bit, on any number of threads.

Exit status: 0 after a forecast, 1 if the training diverged, 2 if an argument or the series does not fit, 130 after
Ctrl-C. Times are those of a shared machine of two cores, Intel Xeon.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import os
import shutil
import statistics
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

try:
    import numpy as np
    from _cells import CELLS, available_cells
    from _training import Adam, StopRequest, positive_float, positive_int, seed, split
    from tqdm import tqdm

    import rnnkernels
except ModuleNotFoundError as missing:
    sys.exit(
        f"{missing.name} is not installed for {sys.executable}.\n"
        'To install what this script needs: python -m pip install -e ".[train]"'
    )

HELD_OUT = 0.1
"""The last part of the series, which is forecast."""
SMALL_ERROR = 0.4
"""A forecast is good for as long as its error, in standard deviations, is below this."""
GRADIENT_NORM_LIMIT = 1.0
WARM_UP_STEPS = 50
BLOCK = 1 << 16
"""Steps of the series that are read or written at a time where no window is asked for."""
MOST_PANELS = 4


@dataclasses.dataclass
class Settings:
    """What a run is made of."""

    # Of the cells, sizes and learning rates tried for forty seconds each, on two cores, these gave the lowest loss.
    system: str = "lorenz"
    data: str = ""
    length: int = 100_000
    cell: str = "lstm"
    layers: int = 1
    hidden: int = 64
    dtype: str = "float32"
    batch: int = 16
    window: int = 32
    steps: int = 40_000
    learning_rate: float = 8e-3
    checkpoint_every: int | None = None
    memory_budget: int | None = None
    warm_up: int = 100
    forecast: int = 500
    starts: int = 16
    seed: int = 0


QUICK = {"length": 20_000, "hidden": 32, "steps": 3000, "forecast": 300}
"""Other defaults of a run of some seconds."""


class System(NamedTuple):
    """A physical system whose state is the series."""

    title: str
    derivative: Callable[[np.ndarray], np.ndarray]
    start: tuple[float, ...]
    columns: tuple[str, ...]
    time_step: float


def lorenz(state: np.ndarray) -> np.ndarray:
    """Convection in a layer of fluid that is heated from below, as Lorenz simplified it (1963); chaotic."""
    x, y, z = state
    return np.array((10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z))


def oscillators(state: np.ndarray) -> np.ndarray:
    """Masses in a row between two walls, joined by springs that harden (Fermi, Pasta, Ulam and Tsingou, 1955)."""
    places, speeds = np.split(state, 2)
    stretched = np.diff(places, prepend=0.0, append=0.0)
    return np.concatenate((speeds, np.diff(stretched + stretched**3)))


SYSTEMS = {
    "lorenz": System("Lorenz system", lorenz, (1.0, 1.0, 25.0), ("x", "y", "z"), 0.02),
    "oscillators": System(
        "four coupled oscillators",
        oscillators,
        (1.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0),
        tuple(f"{kind} {k}" for kind in ("place", "speed") for k in (1, 2, 3, 4)),
        0.1,
    ),
}
TRANSIENT = 1000
"""Steps before the series begins: what they start from is forgotten."""


def runge_kutta(derivative: Callable[[np.ndarray], np.ndarray], state: np.ndarray, dt: float) -> np.ndarray:
    """Advance a state by one step of the method of fourth order."""
    k1 = derivative(state)
    k2 = derivative(state + dt / 2 * k1)
    k3 = derivative(state + dt / 2 * k2)
    k4 = derivative(state + dt * k3)
    return state + dt / 6 * (k1 + 2 * (k2 + k3) + k4)


def stop(message: str) -> NoReturn:
    """Say what does not fit, and end."""
    print(f"forecast_series.py: {message}", file=sys.stderr)
    sys.exit(2)


def parse_arguments(arguments: list[str] | None) -> tuple[argparse.Namespace, Settings]:
    """Read the command line; what was not given has the defaults of the run, quick or not."""
    default = Settings()
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def setting(name: str, explanation: str, to: Any = parser, **options: Any) -> None:
        field = name.replace("-", "_")
        value = getattr(default, field)
        quick = f", {QUICK[field]} if quick" if field in QUICK else ""
        shown = f" (default: {value}{quick})" if value else ""
        to.add_argument(f"--{name}", default=argparse.SUPPRESS, help=explanation + shown, **options)

    source = parser.add_mutually_exclusive_group()
    setting("system", "what to compute a series of", source, choices=list(SYSTEMS))
    setting("data", "series instead: an array (T, D) or (T,), or columns of numbers", source, metavar="FILE.npy|.csv")
    setting("length", "steps T of a computed series", type=positive_int, metavar="T")
    setting("cell", "recurrent layer", choices=list(available_cells(rnnkernels)))
    setting("layers", "recurrent layers, one on the other", type=positive_int, metavar="COUNT")
    setting("hidden", "size H of the hidden state", type=positive_int, metavar="H")
    setting("dtype", "precision of weights and activations", choices=["float32", "float64"])
    setting("batch", "parallel streams of the series, N", type=positive_int, metavar="N")
    setting("window", "steps of a window, through which gradients flow back", type=positive_int, metavar="STEPS")
    setting("steps", "minibatches, each of one window of all streams", type=positive_int, metavar="COUNT")
    setting("learning-rate", "Adam's highest learning rate", type=positive_float, metavar="RATE")
    memory = parser.add_mutually_exclusive_group()
    setting(
        "checkpoint-every", "keep states only so often for the way back", memory, type=positive_int, metavar="STEPS"
    )
    setting("memory-budget", "keep no more than this for the way back", memory, type=positive_int, metavar="BYTES")
    setting("warm-up", "steps that a stream reads before it forecasts", type=positive_int, metavar="STEPS")
    setting("forecast", "steps to forecast", type=positive_int, metavar="STEPS")
    setting("starts", "places from which to forecast", type=positive_int, metavar="COUNT")
    setting("seed", "seed of the weights and of the start of a system", type=seed, metavar="NUMBER")
    parser.add_argument("--quick", action="store_true", help="a shorter series and less training")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for what a run leaves (default: out)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="the plot (default: forecast.png in OUT)")

    args = parser.parse_args(arguments)
    given = {name: getattr(args, name) for name in vars(default) if hasattr(args, name)}
    if args.plot is None:
        args.plot = args.out / "forecast.png"
    elif args.plot.suffix.lower() != ".png" or args.plot.is_dir():
        parser.error(f"--plot must name a file that ends with .png; got {args.plot}")
    elif not args.plot.parent.is_dir() and not args.out.resolve().is_relative_to(args.plot.parent.resolve()):
        parser.error(f"--plot: there is no folder {args.plot.parent}")
    if "data" in given and "length" in given:
        parser.error("--length is that of a computed series; leave it out with --data")
    return args, Settings(**(QUICK if args.quick else {}) | given)


class Source(NamedTuple):
    """Where a series comes from."""

    title: str
    columns: tuple[str, ...]
    T: int
    time_step: float | None
    mapped: np.ndarray | None
    """The series, where it lies in a file already."""
    blocks: Callable[[], Iterator[np.ndarray]]
    """The same block by block, where it has to be written to one."""


def computed(settings: Settings) -> Source:
    """A series of a physical system."""
    system = SYSTEMS[settings.system]

    def blocks() -> Iterator[np.ndarray]:
        noise = np.random.default_rng(settings.seed).standard_normal(len(system.start))
        state = np.array(system.start) + 0.1 * noise
        for _ in range(TRANSIENT):
            state = runge_kutta(system.derivative, state, system.time_step)
        for begin in range(0, settings.length, 1000):
            block = np.empty((min(1000, settings.length - begin), state.size))
            for row in block:
                row[:] = state
                state = runge_kutta(system.derivative, state, system.time_step)
            yield block

    return Source(system.title, system.columns, settings.length, system.time_step, None, blocks)


def mapped(path: Path) -> Source:
    """A series in a file of NumPy."""
    try:
        series = np.load(path, mmap_mode="r")
    except EOFError:
        stop(f"cannot read {path} as an array: the file is empty.")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        stop(f"cannot read {path} as an array: {error}")
    if not isinstance(series, np.ndarray):
        stop(f"{path} is an archive of arrays ({', '.join(series.files)}), not one array.")
    if series.ndim == 1:
        series = series[:, np.newaxis]
    if series.ndim != 2 or series.shape[1] == 0 or series.dtype.kind not in "iuf":
        stop(f"{path} must hold numbers of shape (T, D) or (T,); it holds {series.dtype} of shape {series.shape}.")
    columns = tuple(f"column {k}" for k in range(series.shape[1]))
    return Source(path.name, columns, len(series), None, series, lambda: iter(()))


def is_number(text: str) -> bool:
    """Whether a text is a number, not finite ones included."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def table(path: Path) -> Source:
    """A series in a text file of columns that commas separate, perhaps with a line of names."""

    def lines() -> Iterator[str]:
        with open(path, encoding="utf-8-sig") as file:
            yield from (line for line in file if line.strip() and not line.lstrip().startswith("#"))

    def numbers(some: list[str]) -> np.ndarray:
        return np.loadtxt(some, delimiter=",", ndmin=2)

    try:
        T = sum(1 for _ in lines())
        first = next(lines(), "").strip().split(",")
    except (OSError, UnicodeDecodeError) as error:
        stop(f"cannot read {path} as text: {error}")
    if T == 0:
        stop(f"{path} has no lines but blank ones and comments.")
    try:
        numbers([",".join(first)])
        columns, names = tuple(f"column {k}" for k in range(len(first))), 0
    except ValueError:
        if any(map(is_number, first)):
            field = next(field.strip() for field in first if not is_number(field))
            stop(f"the first line of {path} holds numbers, but '{field}' too: it must be all numbers or all names.")
        columns, names = tuple(name.strip().strip('"') for name in first), 1

    def blocks() -> Iterator[np.ndarray]:
        rows = itertools.islice(lines(), names, None)
        done = names
        while some := list(itertools.islice(rows, BLOCK)):
            try:
                block = numbers(some)
            except ValueError as error:
                stop(f"{path}, in lines {done + 1} to {done + len(some)}, blank ones and comments left out: {error}")
            if block.shape[1] != len(columns):
                stop(f"{path} has {len(columns)} columns in its first line, {block.shape[1]} after line {done}.")
            done += len(some)
            yield block

    return Source(path.name, columns, T - names, None, None, blocks)


def find_source(settings: Settings) -> Source:
    """The source that the settings name."""
    if not settings.data:
        return computed(settings)
    path = Path(settings.data)
    readers = {".npy": mapped, ".csv": table}
    if path.suffix.lower() not in readers:
        stop(f"--data must end with .npy or .csv; got {path}")
    return readers[path.suffix.lower()](path)


def check_lengths(settings: Settings, T: int) -> int:
    """Return the number of steps to train on; end if a part of the series is too short for what is to be done."""
    n_training = T - round(HELD_OUT * T)
    if n_training - 1 < settings.batch * settings.window:
        stop(
            f"the series has {T:,} steps, {n_training:,} of them to train on, too few for {settings.batch} streams of "
            f"at least one window of {settings.window}: take a longer series or a smaller --batch or --window."
        )
    if T - n_training < settings.warm_up + settings.forecast:
        stop(
            f"the series has {T:,} steps, {T - n_training:,} of them to forecast, fewer than --warm-up and --forecast "
            f"together, {settings.warm_up + settings.forecast:,}: take a longer series or less of these."
        )
    return n_training


def check_memory(settings: Settings, D: int) -> None:
    """End if training would take more memory than the machine has."""
    try:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return
    H, T, layers = settings.hidden, settings.window, settings.layers
    gates = len(CELLS[settings.cell].gates)
    n_weights = gates * H * (D + H + (layers - 1) * 2 * H) + H * D
    # Weights, gradient, what Adam keeps and computes with; and what the layers return and keep of each step.
    every = settings.checkpoint_every or T
    kept_steps = T if every >= T or settings.memory_budget else every + T // every
    n_kept = settings.batch * (T * (6 * D + 4 * H) + kept_steps * 8 * layers * H)
    needed = np.dtype(settings.dtype).itemsize * (7 * n_weights + n_kept)
    if needed > available:
        stop(
            f"training {n_weights:,} weights on minibatches of {settings.batch} windows of {T} steps takes "
            f"{needed / 1e9:,.0f} GB of memory; this machine has {available / 1e9:,.0f}: take a smaller --hidden, "
            "--layers, --batch or --window."
        )


def write_series(source: Source, path: Path) -> None:
    """Write the series to a file, block by block; at every moment `path` is complete or not there."""
    partial = path.with_name(path.name + ".partial")
    needed, free = 8 * source.T * len(source.columns), shutil.disk_usage(path.parent).free
    if needed > free:
        stop(f"the series takes {needed / 1e9:,.1f} GB in {path.parent}, which has {free / 1e9:,.1f} GB free.")
    try:
        series = np.lib.format.open_memmap(partial, "w+", np.float64, (source.T, len(source.columns)))
        begin = 0
        with tqdm(total=source.T, desc="series", unit="step", unit_scale=True, leave=False, disable=None) as bar:
            for block in source.blocks():
                series[begin : begin + len(block)] = block
                begin += len(block)
                bar.update(len(block))
        series.flush()
        del series
        os.replace(partial, path)
    except OSError as error:
        stop(f"cannot write the series to {path}: {error.strerror}")
    finally:
        partial.unlink(missing_ok=True)


class Scales(NamedTuple):
    """What brings a series to the sizes that suit a network; one number for each column."""

    mean: np.ndarray
    deviation: np.ndarray
    """Standard deviation; 1 if there is none."""
    change: np.ndarray
    """Root mean square of the change from one step to the next; 1 if there is none."""

    def inputs(self, values: np.ndarray, dtype: str) -> np.ndarray:
        """Values in standard deviations from the mean."""
        return ((values - self.mean) / self.deviation).astype(dtype)

    def values(self, inputs: np.ndarray) -> np.ndarray:
        """The values that `inputs` made these of."""
        return inputs * self.deviation + self.mean

    def changes(self, x: np.ndarray, y: np.ndarray, dtype: str) -> np.ndarray:
        """Changes in units of their size: the mean of their squares, the error of the naive forecast, is 1."""
        return ((y - x) / self.change).astype(dtype)


def find_scales(series: np.ndarray, n_training: int) -> Scales:
    """Go through the series block by block; end if there is a number that is not finite."""
    sums = np.zeros((3, series.shape[1]))
    for begin in range(0, len(series), BLOCK):
        block = np.asarray(series[begin : begin + BLOCK + 1], np.float64)  # the last one is the first one of the next
        if not np.isfinite(block).all():
            step, column = np.argwhere(~np.isfinite(block))[0]
            stop(f"step {begin + step} of the series is {block[step, column]} in column {column}: it must be finite.")
        block = block[: max(0, n_training - begin)]
        moved = block[:BLOCK] - series[0]
        sums += moved.sum(axis=0), np.square(moved).sum(axis=0), np.square(np.diff(block, axis=0)).sum(axis=0)
    mean = sums[0] / n_training
    deviation, change = np.sqrt(np.maximum(sums[1] / n_training - mean**2, 0)), np.sqrt(sums[2] / (n_training - 1))
    return Scales(mean + series[0], np.where(deviation > 0, deviation, 1.0), np.where(change > 0, change, 1.0))


class Forecaster:
    """Recurrent layers, and an affine layer that says the change to the next step; its weights are one vector, too."""

    def __init__(self, settings: Settings, D: int) -> None:
        cell, rng = CELLS[settings.cell], np.random.default_rng(settings.seed)
        self.settings = settings
        self.layer = cell.layer(rnnkernels).create(
            D, settings.hidden, num_layers=settings.layers, dtype=settings.dtype, rng=rng
        )
        parameters = self.layer.parameters
        shapes = {name: values.shape for name, values in parameters.items()}
        shapes |= {"W_out": (settings.hidden, D), "b_out": (D,)}  # zero: it begins as the naive forecast
        self.flat = np.zeros(sum(math.prod(shape) for shape in shapes.values()), settings.dtype)
        self.weights = split(self.flat, shapes)
        for name, values in parameters.items():
            self.weights[name][...] = values
        for _, _, b, *_ in cell.parameters(settings.layers):
            for gate in cell.open_gates:
                self.weights[b].reshape(len(cell.gates), -1)[cell.gates.index(gate)] = 1.0
        self.refresh()

    def refresh(self) -> None:
        """Give the layers the weights as they are now."""
        self.layer.replace(**{name: self.weights[name] for name in self.layer.parameters})

    def change(self, h: np.ndarray) -> np.ndarray:
        """Predicted changes, in units of their size, after the hidden states (N, T, H)."""
        weights = self.weights
        return rnnkernels.temporal_affine_forward(h, weights["W_out"], weights["b_out"], keep_cache=False)[0]

    def loss_and_gradient(
        self, x: np.ndarray, target: np.ndarray, lengths: np.ndarray, state: Any = ()
    ) -> tuple[float, np.ndarray, Any]:
        """Return the mean squared error of the valid steps of a window, its gradient, flat, and the state after it."""
        settings, weights = self.settings, self.weights
        h, cache = result = self.layer.forward(
            x,
            *state,
            lengths=lengths,
            checkpoint_every=settings.checkpoint_every,
            memory_budget=settings.memory_budget,
        )
        out, affine_cache = rnnkernels.temporal_affine_forward(h, weights["W_out"], weights["b_out"])
        error = out - target
        error[np.arange(x.shape[1]) >= lengths[:, np.newaxis]] = 0
        count = int(lengths.sum()) * x.shape[2]
        loss = float(np.square(error, dtype=np.float64).sum()) / count
        error *= error.dtype.type(2 / count)
        dh, dW_out, db_out = rnnkernels.temporal_affine_backward(error, affine_cache)
        gradients = {**self.layer.backward(dh, cache).gradients, "W_out": dW_out, "b_out": db_out}
        return loss, np.concatenate([gradients[name].ravel() for name in weights]), result.state


def try_out(model: Forecaster, D: int) -> float:
    """Run a minibatch of zeros, so that kernels are compiled and sizes found to fit; return how long it took."""
    settings = model.settings
    started = time.perf_counter()
    x = np.zeros((settings.batch, settings.window, D), settings.dtype)
    model.loss_and_gradient(x, x, np.full(settings.batch, settings.window))
    return time.perf_counter() - started


def train(model: Forecaster, series: np.ndarray, scales: Scales) -> tuple[list[float], int]:
    """Train until all steps are done or a signal comes; return the losses and that signal's number, or 0.

    States are carried from window to window, and are zero again where the streams begin anew.
    """
    settings = model.settings
    windows = rnnkernels.BPTTWindows(series, settings.batch, settings.window, dtype=np.float64)
    adam = Adam(model.flat.size, settings.dtype)
    losses: list[float] = []
    request = StopRequest()
    with tqdm(
        total=settings.steps, desc="training", unit="step", mininterval=0.2 if sys.stderr.isatty() else 10.0
    ) as bar:
        while len(losses) < settings.steps and not request.signal:
            state: Any = ()
            for x, y, lengths in windows:
                target, x = scales.changes(x, y, settings.dtype), scales.inputs(x, settings.dtype)
                loss, gradient, state = model.loss_and_gradient(x, target, lengths, state)
                if not math.isfinite(loss):
                    bar.close()
                    request.withdraw()
                    sys.exit(f"The loss is {loss} after {len(losses)} steps: try a lower --learning-rate.")
                rnnkernels.clip_gradients({"all": gradient}, GRADIENT_NORM_LIMIT)
                progress = len(losses) / settings.steps
                rate = min(1.0, (len(losses) + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * progress))
                losses.append(loss)
                adam.update(model.flat, gradient, len(losses), settings.learning_rate * rate)
                model.refresh()
                bar.set_postfix_str(f"loss {recent(losses):.2g} of naive", refresh=False)
                bar.update()
                if request.signal or len(losses) == settings.steps:
                    break
    request.withdraw()
    return losses, request.signal


def recent(losses: list[float]) -> float:
    """Median of the last losses: those of windows at which streams begin are much larger than others."""
    return statistics.median(losses[-50:])


def forecast(model: Forecaster, scales: Scales, past: np.ndarray, steps: int) -> np.ndarray:
    """Stream the past (N, T, D), then let each prediction be the next input; all in standard deviations."""
    ratio = (scales.change / scales.deviation).astype(past.dtype)
    stream = model.layer.stream(batch_size=len(past))
    h, x = stream.steps(past)[:, -1], past[:, -1]
    predicted = np.empty((len(past), steps, past.shape[2]), past.dtype)
    for step in range(steps):
        x = x + ratio * model.change(h[:, np.newaxis])[:, 0]
        predicted[:, step] = x
        h = stream.step(x)
    return predicted


@dataclasses.dataclass
class Comparison:
    """Forecasts beside the truth, in standard deviations of each column."""

    past: np.ndarray
    """(S, W, D): what the streams have read, from S places."""
    truth: np.ndarray
    """(S, F, D)."""
    predicted: np.ndarray
    """(S, F, D)."""

    def error(self, naive: bool = False) -> np.ndarray:
        """Root mean square over the columns, (S, F)."""
        of = self.past[:, -1:] if naive else self.predicted
        return np.sqrt(np.square(of - self.truth, dtype=np.float64).mean(axis=2))

    def good_steps(self, naive: bool = False) -> np.ndarray:
        """How many steps the error stays small, (S,)."""
        large = ~(self.error(naive) < SMALL_ERROR)
        return np.where(large.any(axis=1), large.argmax(axis=1), large.shape[1])

    @property
    def typical(self) -> int:
        """The place whose forecast is good for neither long nor short."""
        return int(np.argsort(self.good_steps(), kind="stable")[(len(self.truth) - 1) // 2])


def compare(model: Forecaster, scales: Scales, held_out: np.ndarray) -> Comparison:
    """Forecast from evenly spaced places of the held-out part."""
    settings = model.settings
    span = settings.warm_up + settings.forecast
    places = np.unique(np.linspace(0, len(held_out) - span, settings.starts).astype(int))
    seen = np.stack([held_out[place : place + span] for place in places])
    inputs = scales.inputs(seen, settings.dtype)
    past, truth = inputs[:, : settings.warm_up], inputs[:, settings.warm_up :]
    return Comparison(past, truth, forecast(model, scales, past, settings.forecast))


def report(comparison: Comparison, time_step: float | None) -> str:
    """Say how the errors grow."""
    ours, naive = (np.sqrt(np.square(comparison.error(of)).mean(axis=0)) for of in (False, True))
    S, F = len(comparison.truth), len(ours)
    lines = [
        f"Forecasts from {S} place{'s' * (S > 1)}, root mean square errors in standard deviations:",
        "    step  forecast     naive",
    ]
    for step in sorted({step for step in (1, 3, 10, 30, 100, 300, 1000, 3000) if step < F} | {F}):
        lines.append(f"{step:8,}{ours[step - 1]:10.2g}{naive[step - 1]:10.2g}")

    def told(steps: np.ndarray) -> str:
        middle = statistics.median(steps.tolist())
        text = f"{middle:g} steps (median; {steps.min()} to {steps.max()})"
        return text if time_step is None else f"{text}, {middle * time_step:.3g} units of time"

    lines.append(
        f"Below {SMALL_ERROR} for {told(comparison.good_steps())}; the naive forecast for "
        f"{told(comparison.good_steps(naive=True))}."
    )
    return "\n".join(lines)


def draw(comparison: Comparison, scales: Scales, source: Source, title: str, path: Path) -> None:
    """Draw the typical forecast beside the truth, column by column, and the errors of all."""
    from matplotlib.figure import Figure

    chosen = comparison.typical
    past, truth, predicted = (
        scales.values(part[chosen].astype(np.float64))
        for part in (comparison.past, comparison.truth, comparison.predicted)
    )
    unit = source.time_step or 1.0
    before, after = np.arange(1 - len(past), 1) * unit, np.arange(1, 1 + len(truth)) * unit
    panels = min(MOST_PANELS, len(source.columns))
    figure = Figure(figsize=(10, 2 + 1.7 * (panels + 1)), layout="constrained")
    axes = figure.subplots(panels + 1, 1, sharex=True)
    good = comparison.good_steps()[chosen] * unit
    for column, panel in enumerate(axes[:-1]):
        panel.plot(
            np.r_[before, after], np.r_[past[:, column], truth[:, column]], color="0.65", linewidth=3, label="truth"
        )
        panel.plot(after, predicted[:, column], color="tab:blue", linewidth=1.5, label="forecast")
        panel.plot(after, np.full(len(after), past[-1, column]), "--", color="tab:orange", linewidth=1, label="naive")
        panel.axvline(0, color="gray", linewidth=0.8)
        panel.axvline(good, color="tab:blue", linestyle=":", linewidth=1)
        low, high = (f(np.r_[past[:, column], truth[:, column]]) for f in (np.min, np.max))
        margin = 0.1 * (high - low) or 1.0
        panel.set_ylim(low - margin, high + margin)
        panel.set_ylabel(source.columns[column])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    ours, naive = comparison.error(), comparison.error(naive=True)
    axes[-1].semilogy(after, ours.T, color="tab:blue", alpha=0.2, linewidth=0.7)
    axes[-1].semilogy(after, np.median(ours, axis=0), color="tab:blue", label=f"median of {len(ours)} forecasts")
    axes[-1].semilogy(after, np.median(naive, axis=0), "--", color="tab:orange", label="of naive ones")
    axes[-1].axhline(SMALL_ERROR, color="gray", linestyle=":", linewidth=1)
    axes[-1].set_ylabel("error, std. deviations")
    axes[-1].set_xlabel("units of time" if source.time_step else "steps")
    axes[-1].legend(loc="lower right", fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    """Train, forecast and compare; return the exit status."""
    args, settings = parse_arguments(arguments)
    source = find_source(settings)
    D = len(source.columns)
    n_training = check_lengths(settings, source.T)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        stop(f"cannot make the folder {args.out}: {error.strerror}")
    check_memory(settings, D)
    model = Forecaster(settings, D)
    try:
        seconds = try_out(model, D)
    except ValueError as error:  # of the budget of memory, which the layers know
        stop(str(error))

    if source.mapped is None:
        write_series(source, args.out / "series.npy")
    series = np.load(args.out / "series.npy", mmap_mode="r") if source.mapped is None else source.mapped
    scales = find_scales(series, n_training)
    stack = f"{settings.cell.upper()}, {settings.layers} layer{'s' * (settings.layers > 1)}, H = {settings.hidden}"
    print(
        f"{source.title}: {source.T:,} steps of {D} number{'s' * (D > 1)}, the first {n_training:,} to train on.\n"
        f"{stack}, {settings.dtype}: {model.flat.size:,} weights; minibatches of {settings.batch} windows of "
        f"{settings.window} steps.\nFirst call, compilation included: {seconds:.1f} s.",
        flush=True,
    )

    started = time.perf_counter()
    losses, signal_number = train(model, series[:n_training], scales)
    seconds = time.perf_counter() - started
    print(
        f"{len(losses):,} minibatches in {seconds:.1f} s; the loss is {recent(losses):.2g} of the naive forecast's."
        if losses
        else "Nothing was learned yet."
    )
    comparison = compare(model, scales, series[n_training:])
    print(report(comparison, source.time_step))
    arrays = {
        "past": scales.values(comparison.past),
        "truth": scales.values(comparison.truth),
        "forecast": scales.values(comparison.predicted),
        "losses": np.array(losses),
    }
    np.savez(args.out / "forecast.npz", allow_pickle=False, **arrays, **model.weights)
    draw(comparison, scales, source, f"{source.title}, {stack}, after {len(losses):,} minibatches", args.plot)
    print(f"\nIn {args.out}: {'series.npy, ' * (source.mapped is None)}forecast.npz; plot: {args.plot}")
    if signal_number:
        print(f"Stopped after {len(losses):,} of {settings.steps:,} minibatches.")
        return 128 + signal_number
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
