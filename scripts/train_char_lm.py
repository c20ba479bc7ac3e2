#!/usr/bin/env python3
"""Train a character-level language model through rnnkernels, and let it write.

The model is word embedding -> one or more layers of an LSTM, GRU or vanilla RNN, with dropout in between -> affine ->
masked softmax loss, trained with Adam and clipped gradients. Its text is the source of this Python's own standard
library unless ``--text`` names a file.

    python scripts/train_char_lm.py                       two minutes of training, then a sample
    python scripts/train_char_lm.py --resume --seconds 600   go on from the checkpoint, ten minutes in all
    python scripts/train_char_lm.py --text FILE --cell rnn   another text, the vanilla RNN
    python scripts/train_char_lm.py --layers 2 --cell gru --dropout 0.2   a stack of two GRUs

OUT (``--out``, ``out`` unless told otherwise) receives checkpoint.npz, loss.png and sample.txt. Ctrl-C saves the
checkpoint and ends with exit status 130. A run limited by ``--steps`` that was stopped and resumed ends with the same
weights, bit for bit, as one that was not stopped; under ``--seconds`` the learning rate follows the clock.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import os
import statistics
import sys
import sysconfig
import time
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    import numpy as np
    from _cells import CELLS, available_cells
    from _training import Adam, StopRequest, Weights, positive_float, positive_int, seed, split
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    import rnnkernels
    from rnnkernels import reference
except ModuleNotFoundError as missing:
    sys.exit(
        f"{missing.name} is not installed for {sys.executable}.\n"
        'scripts/demo sets everything up by itself; to do it by hand: python -m pip install -e ".[train]"'
    )

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # stands for every character outside the vocabulary
VALIDATION_SHARE = 0.05
VALIDATION_WINDOWS = 32
VALIDATION_STEPS = 512
GRADIENT_NORM_LIMIT = 1.0
WARM_UP_STEPS = 50


@dataclasses.dataclass
class Settings:
    """What a run is made of; all but the budget is fixed once a checkpoint exists."""

    # Sizes and learning rate gave the lowest validation loss, of those tried, for two minutes on two cores: more and
    # smaller minibatches beat fewer and larger ones, and 256 hidden units beat 128 and 192.
    text: str = ""
    max_chars: int = 12_000_000
    vocabulary: int = 100
    cell: str = "lstm"
    layers: int = 1
    dropout: float = 0.0
    dtype: str = "float32"
    embedding: int = 64
    hidden: int = 256
    batch: int = 16
    window: int = 64
    learning_rate: float = 8e-3
    seed: int = 0
    seconds: float = 120.0
    steps: int = 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; settings that were not given are absent, so that a checkpoint can supply them."""
    default = Settings()
    parser = argparse.ArgumentParser(
        description="Train a character-level language model through rnnkernels, and let it write.",
        epilog="Ctrl-C saves the checkpoint and ends with exit status 130.",
    )

    def setting(name: str, explanation: str, **options: Any) -> None:
        value = getattr(default, name.replace("-", "_"))
        shown = f" (default: {value})" if value else ""
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=explanation + shown, **options)

    setting("text", "text to learn, UTF-8 (default: the standard library's source files)", metavar="FILE")
    setting("max-chars", "read at most so many characters of it", type=positive_int, metavar="COUNT")
    setting("vocabulary", "tell so many characters apart, the most frequent ones", type=positive_int, metavar="COUNT")
    setting("cell", "recurrent layer", choices=list(available_cells(rnnkernels)))
    setting("layers", "recurrent layers, one on the other", type=positive_int, metavar="COUNT")
    setting("dropout", "probability of dropping what one layer passes to the next", type=probability, metavar="P")
    setting("dtype", "precision of weights and activations", choices=["float32", "float64"])
    setting("embedding", "size D of a character's embedding", type=positive_int, metavar="D")
    setting("hidden", "size H of the hidden state", type=positive_int, metavar="H")
    setting("batch", "windows per minibatch, N", type=positive_int, metavar="N")
    setting("window", "characters per window, T", type=positive_int, metavar="T")
    setting("learning-rate", "Adam's highest learning rate", type=positive_float, metavar="RATE")
    setting("seed", "seed of weights and windows", type=seed)
    setting("seconds", "train so long, earlier runs included", type=positive_float)
    setting("steps", "train so many minibatches, earlier runs included, instead of a time", type=positive_int)

    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in OUT")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for what a run leaves (default: out)")
    parser.add_argument(
        "--report-every",
        type=positive_float,
        default=20.0,
        metavar="SECONDS",
        help="validate, sample and save so often (default: 20)",
    )
    parser.add_argument("--prompt", default="\nclass ", help="the samples' first characters; backslash escapes work")
    parser.add_argument("--sample-chars", type=positive_int, default=1200, help="length of the last sample")
    parser.add_argument(
        "--temperature", type=positive_float, default=0.6, help="below 1: safer samples, above: wilder (default: 0.6)"
    )
    return parser.parse_args(arguments)


def probability(text: str) -> float:
    """Parse a number of at least 0 and below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be in 0 <= P < 1, got {value}")
    return value


def read_standard_library(max_chars: int) -> str:
    """Join the standard library's source files, tests left out.

    Sorted by a hash of their names, so that every part of the text, the validation part too, mixes all packages, in
    the same order on every machine. Character tables (encodings) and generated help (pydoc_data) are not code.
    """
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "pydoc_data"}
    names = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = set(subfolders) - left_out
        names += [(Path(folder) / file).relative_to(root).as_posix() for file in files if file.endswith(".py")]
    if not names:
        sys.exit(f"This Python keeps no source files in {root}. Name a text to learn: --text FILE")

    texts = []
    total = 0
    for name in sorted(names, key=lambda name: (zlib.crc32(name.encode()), name)):
        texts.append((root / name).read_text(encoding="utf-8", errors="replace"))
        total += len(texts[-1])
        if total >= max_chars:
            break
    return "".join(texts)[:max_chars]


def read_text(settings: Settings) -> str:
    """Read the text that the settings name."""
    if not settings.text:
        return read_standard_library(settings.max_chars)
    try:
        with open(settings.text, encoding="utf-8", errors="replace") as file:
            return file.read(settings.max_chars)
    except OSError as error:
        sys.exit(f"Cannot read the text {settings.text}: {error.strerror}")


def choose_vocabulary(text: str, size: int) -> str:
    """Return the text's most frequent characters in code order, then the replacement character."""
    counts = Counter(text)
    del counts[REPLACEMENT]
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[: size - 1]
    return "".join(sorted(frequent)) + REPLACEMENT


def encode(text: str, vocabulary: str) -> np.ndarray:
    """Turn characters into their places in the vocabulary."""
    place = {ord(character): index for index, character in enumerate(vocabulary)}
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)
    present, inverse = np.unique(codes, return_inverse=True)
    return np.array([place.get(code, len(vocabulary) - 1) for code in present.tolist()], dtype=np.int32)[inverse]


def weight_shapes(settings: Settings, n_words: int) -> dict[str, tuple[int, ...]]:
    """Name the model's weights and their shapes."""
    D, H = settings.embedding, settings.hidden
    cell = CELLS[settings.cell]
    G = len(cell.gates) * H
    recurrent: dict[str, tuple[int, ...]] = {}
    for Wx, Wh, *biases in cell.parameters(settings.layers):
        recurrent |= {Wx: (H if recurrent else D, G), Wh: (H, G), **dict.fromkeys(biases, (G,))}
    return {"embedding": (n_words, D), **recurrent, "W_out": (H, n_words), "b_out": (n_words,)}


def count_weights(settings: Settings, n_words: int) -> int:
    """How many numbers the model is made of."""
    return sum(math.prod(shape) for shape in weight_shapes(settings, n_words).values())


def check_memory(settings: Settings, n_words: int) -> None:
    """End with a clear message if training would take more memory than the machine has."""
    try:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        available = sys.maxsize
    n_weights = count_weights(settings, n_words)
    # Weights, gradient, what Adam keeps and computes with; and of each character what the layers keep and return.
    n_kept = 2 * settings.embedding + 12 * settings.layers * settings.hidden + 3 * n_words
    n_kept *= settings.batch * settings.window
    needed = np.dtype(settings.dtype).itemsize * (7 * n_weights + n_kept)
    if needed > available:
        sys.exit(
            f"Training {n_weights:,} weights on minibatches of {settings.batch} windows of {settings.window} takes "
            f"{needed / 1e9:,.0f} GB of memory; this machine has {available / 1e9:,.0f}. Take a smaller --hidden, "
            "--embedding, --batch or --window."
        )


def initial_weights(settings: Settings, n_words: int, rng: np.random.Generator) -> np.ndarray:
    """Draw weights that keep the variance of what passes through them; biases are zero but those of open gates."""
    shapes = weight_shapes(settings, n_words)
    flat = np.zeros(count_weights(settings, n_words), dtype=settings.dtype)
    weights = split(flat, shapes)
    cell = CELLS[settings.cell]
    layers = cell.parameters(settings.layers)
    for name in (*(name for Wx, Wh, *_ in layers for name in (Wx, Wh)), "W_out"):
        weights[name][...] = rng.standard_normal(weights[name].shape) / math.sqrt(weights[name].shape[0])
    weights["embedding"][...] = rng.standard_normal(weights["embedding"].shape)
    for _, _, b, *_ in layers:
        for gate in cell.open_gates:
            weights[b].reshape(len(cell.gates), -1)[cell.gates.index(gate)] = 1.0
    return flat


class PlainStack:
    """What a stack of rnnkernels does, by the functions of `reference`, and without dropout."""

    def __init__(self, cell: str, parameters: list[Weights]) -> None:
        self.cell, self.parameters = CELLS[cell], parameters

    def forward(self, x: np.ndarray, *, rng: None = None) -> tuple[np.ndarray, Any]:
        """Run over whole sequences."""
        caches = []
        for weights in self.parameters:
            Wx, Wh, b, *others = weights.values()
            options = dict(zip(self.cell.biases[1:], others, strict=True))
            h0 = np.zeros((len(x), len(Wh)), Wh.dtype)
            x, cache = self.cell.function(reference, "forward")(x, h0, Wx, Wh, b, **options)
            caches.append(cache)
        return x, caches

    def backward(self, dh: np.ndarray, caches: Any) -> tuple[np.ndarray, Weights]:
        """Propagate gradients back."""
        gradients: Weights = {}
        for weights, cache in zip(self.parameters[::-1], caches[::-1], strict=True):
            found = self.cell.function(reference, "backward")(dh, cache)
            gradients |= zip(weights, self.cell.weight_gradients(found), strict=True)
            dh = found[0]
        return dh, gradients


def recurrent_layers(layers: ModuleType, settings: Settings, weights: Weights) -> Any:
    """Make the recurrent part of the model; `layers` is rnnkernels or its reference."""
    cell = CELLS[settings.cell]
    parts = [{name: weights[name] for name in names} for names in cell.parameters(settings.layers)]
    if layers is reference:
        return PlainStack(settings.cell, parts)
    whole = {name: values for part in parts for name, values in part.items()}
    return cell.layer(layers).from_parameters(whole, dropout=settings.dropout)


def scores(
    layers: ModuleType,
    recurrent: Any,
    weights: Weights,
    x: np.ndarray,
    rng: np.random.Generator | None,
    **options: bool,
) -> tuple[np.ndarray, Any]:
    """Run the model over windows of characters (N, T); return the scores (N, T, V) and the layers' caches."""
    embedded, embedding_cache = layers.word_embedding_forward(x, weights["embedding"], **options)
    h, recurrent_cache = recurrent.forward(embedded, rng=rng, **options)
    out, affine_cache = layers.temporal_affine_forward(h, weights["W_out"], weights["b_out"], **options)
    return out, (embedding_cache, recurrent_cache, affine_cache)


def mean_loss(layers: ModuleType, out: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the loss in nats per character and its gradient; the mask's weight turns the sum over T into a mean."""
    loss, dout = layers.temporal_softmax_loss(out, y, np.full(y.shape, 1 / y.shape[1], dtype=out.dtype))
    return float(loss), dout


def loss_and_gradient(
    layers: ModuleType,
    settings: Settings,
    weights: Weights,
    x: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator | None = None,
) -> tuple[float, np.ndarray]:
    """Return the loss in nats per character and its gradient, flat; `layers` is rnnkernels or its reference.

    What is dropped is drawn from `rng`; nothing without it.
    """
    recurrent = recurrent_layers(layers, settings, weights)
    out, (embedding_cache, recurrent_cache, affine_cache) = scores(layers, recurrent, weights, x, rng)
    loss, dout = mean_loss(layers, out, y)
    dh, dW_out, db_out = layers.temporal_affine_backward(dout, affine_cache)
    dembedded, gradients = recurrent.backward(dh, recurrent_cache)
    dembedding = layers.word_embedding_backward(dembedded, embedding_cache)
    gradients = {"embedding": dembedding, **gradients, "W_out": dW_out, "b_out": db_out}
    return loss, np.concatenate([gradients[name].ravel() for name in weights])


def windows(data: np.ndarray, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut windows at the given places; return the characters and, for each, the next one."""
    cut = np.lib.stride_tricks.sliding_window_view(data, length + 1)[starts]
    return cut[:, :-1], cut[:, 1:]


def validation_loss(settings: Settings, weights: Weights, data: np.ndarray) -> float:
    """Return the loss on evenly spaced windows that are longer than the training windows.

    A sample, too, carries its state further than any training window, so this is the loss of what the model is for.
    """
    length = min(VALIDATION_STEPS, data.size - 1)
    starts = np.linspace(0, data.size - 1 - length, VALIDATION_WINDOWS).astype(int)
    x, y = windows(data, starts, length)
    recurrent = recurrent_layers(rnnkernels, settings, weights)
    out, _ = scores(rnnkernels, recurrent, weights, x, None, keep_cache=False)
    return mean_loss(rnnkernels, out, y)[0]


def write_sample(
    settings: Settings, weights: Weights, vocabulary: str, prompt: str, n_chars: int, temperature: float, seed: int
) -> str:
    """Let the model continue the prompt, character by character."""
    rng = np.random.default_rng(seed)
    stream = recurrent_layers(rnnkernels, settings, weights).stream()
    pending = encode(prompt, vocabulary).tolist()
    written = list(prompt)
    for _ in range(len(prompt) - 1 + n_chars):
        embedded, _ = rnnkernels.word_embedding_forward([pending.pop(0)], weights["embedding"], keep_cache=False)
        h = stream.step(embedded)
        if not pending:
            out, _ = rnnkernels.temporal_affine_forward(
                h[:, np.newaxis], weights["W_out"], weights["b_out"], keep_cache=False
            )
            logits = out[0, 0].astype(np.float64) / temperature
            probabilities = np.exp(logits - logits.max())
            pending.append(int(rng.choice(len(vocabulary), p=probabilities / probabilities.sum())))
            written.append(vocabulary[pending[0]])
    return "".join(written)


@dataclasses.dataclass
class Run:
    """Everything that training changes, and what a checkpoint therefore holds."""

    settings: Settings
    text_digest: str
    weights: np.ndarray
    adam: Adam
    rng: np.random.Generator
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = dataclasses.field(default_factory=list)
    validations: list[tuple[int, float]] = dataclasses.field(default_factory=list)

    @property
    def progress(self) -> float:
        """The part of the budget that is used up."""
        settings = self.settings
        return self.step / settings.steps if settings.steps else self.seconds / settings.seconds

    @property
    def learning_rate(self) -> float:
        """Rise over the first steps, then fall along a cosine to nothing at the end of the budget."""
        warm_up = min(1.0, (self.step + 1) / WARM_UP_STEPS)
        return self.settings.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress)))

    def save(self, path: Path) -> None:
        """Write the checkpoint; at every moment `path` is either the old one or the new one, complete."""
        facts = {
            "settings": dataclasses.asdict(self.settings),
            "text_digest": self.text_digest,
            "rng": self.rng.bit_generator.state,
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = path.with_name(path.name + ".partial")
        with open(partial, "wb") as file:
            np.savez(
                file,
                facts=np.array(json.dumps(facts)),
                weights=self.weights,
                adam_mean=self.adam.mean,
                adam_square=self.adam.square,
                losses=np.array(self.losses),
                validations=np.array(self.validations).reshape(-1, 2),
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read a checkpoint."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                facts = json.loads(str(arrays["facts"]))
                weights = arrays["weights"]
                adam = Adam(weights.size, weights.dtype.name)
                adam.mean, adam.square = arrays["adam_mean"], arrays["adam_square"]
                losses = arrays["losses"].tolist()
                validations = [(int(step), loss) for step, loss in arrays["validations"].tolist()]
            rng = np.random.default_rng()
            rng.bit_generator.state = facts["rng"]
            settings = Settings(**facts["settings"])
        except FileNotFoundError:
            sys.exit(
                f"There is no checkpoint {path} to resume; train without --resume first, or name its folder: --out"
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            sys.exit(f"{path} is not a checkpoint that this script can read: {error}")
        return cls(
            settings, facts["text_digest"], weights, adam, rng, facts["step"], facts["seconds"], losses, validations
        )


def resume(path: Path, given: dict[str, Any]) -> Run:
    """Load a checkpoint and refuse options that contradict it."""
    run = Run.load(path)
    if "seconds" in given or "steps" in given:
        run.settings.seconds = given.pop("seconds", run.settings.seconds)
        run.settings.steps = given.pop("steps", 0)
    for name, value in given.items():
        saved = getattr(run.settings, name)
        if value != saved:
            sys.exit(
                f"--{name.replace('_', '-')} {value} contradicts {path}, trained with {saved or 'the default'}. "
                "Leave the option out, or train afresh in another folder: --out"
            )
    return run


def describe(loss: float) -> str:
    """Say a loss in both units."""
    return f"{loss:.3f} nats = {loss / math.log(2):.3f} bits per character"


def plot_loss(run: Run, path: Path) -> None:
    """Draw the loss over the characters seen."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    millions_per_step = run.settings.batch * run.settings.window / 1e6
    losses = np.array(run.losses)
    smoothing = max(1, losses.size // 200)
    means = losses[: losses.size // smoothing * smoothing].reshape(-1, smoothing).mean(axis=1)
    seen = (np.arange(means.size) + 0.5) * smoothing * millions_per_step

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(seen, means, color="tab:blue", linewidth=1, label=f"training, mean of {smoothing} minibatches")
    if run.validations:
        steps, validations = np.array(run.validations).T
        axes.plot(steps * millions_per_step, validations, "o-", color="tab:orange", markersize=4, label="validation")
    axes.set_xlabel("characters seen, millions")
    axes.set_ylabel("loss, nats per character")
    axes.secondary_yaxis(
        "right",
        functions=(functools.partial(np.multiply, 1 / math.log(2)), functools.partial(np.multiply, math.log(2))),
    ).set_ylabel("bits per character")
    settings = run.settings
    stack = f"{settings.layers} layers, " if settings.layers > 1 else ""
    axes.set_title(f"{settings.cell.upper()}, {stack}H = {settings.hidden}, {settings.dtype}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def train(run: Run, training: np.ndarray, validation: np.ndarray, vocabulary: str, args: argparse.Namespace) -> int:
    """Train until the budget is used up or a signal comes; return that signal's number, or 0.

    Windows are drawn at random and start from zero states, rather than carrying states along parallel streams.
    What a cell learns to hold within a window it holds beyond: after 3000 minibatches of windows of 64, the loss was
    1.34 nats on windows of 64 and 1.29 on windows of 512.
    """
    settings = run.settings
    shapes = weight_shapes(settings, len(vocabulary))
    weights = split(run.weights, shapes)
    checkpoint = args.out / "checkpoint.npz"
    chars_per_step = settings.batch * settings.window
    first_step, first_second = run.step, run.seconds

    def report(n_chars: int) -> None:
        run.validations.append((run.step, validation_loss(settings, weights, validation)))
        run.save(checkpoint)
        text = write_sample(
            settings, weights, vocabulary, args.prompt, n_chars, args.temperature, settings.seed + run.step
        )
        bar.write(f"\nstep {run.step}, validation loss {describe(run.validations[-1][1])}\n{text}")
        (args.out / "sample.txt").write_text(text, encoding="utf-8")

    budget = settings.steps or settings.seconds
    stop = StopRequest()
    with tqdm(
        total=budget,
        initial=min(budget, run.step if settings.steps else run.seconds),
        unit="steps" if settings.steps else "s",
        bar_format="{percentage:3.0f}% {bar} {n:.0f}/{total:.0f} {unit}{postfix}",
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
    ) as bar:
        reported = time.perf_counter()
        while run.progress < 1 and not stop.signal:
            started = time.perf_counter()
            starts = run.rng.integers(0, training.size - settings.window, settings.batch)
            x, y = windows(training, starts, settings.window)
            loss, gradient = loss_and_gradient(rnnkernels, settings, weights, x, y, run.rng)
            if not math.isfinite(loss):
                sys.exit(f"The loss is {loss} after {run.step} steps: try a lower --learning-rate.")
            rnnkernels.clip_gradients({"all": gradient}, GRADIENT_NORM_LIMIT)
            learning_rate = run.learning_rate
            run.step += 1
            run.adam.update(run.weights, gradient, run.step, learning_rate)
            run.losses.append(loss)
            elapsed = time.perf_counter() - started
            run.seconds += elapsed

            speed = (run.step - first_step) * chars_per_step / (run.seconds - first_second)
            recent = statistics.fmean(run.losses[-50:])
            bar.set_postfix_str(f"loss {describe(recent)}, {speed:,.0f} characters/s", refresh=False)
            bar.update(min(1 if settings.steps else elapsed, budget - bar.n))
            remaining = run.seconds * (1 / run.progress - 1)
            if time.perf_counter() - reported >= args.report_every and remaining > args.report_every / 2:
                report(200)
                reported = time.perf_counter()
        if not stop.signal:
            report(args.sample_chars)
    stop.withdraw()
    run.save(checkpoint)
    return stop.signal


def compare_speed(run: Run, training: np.ndarray, n_words: int, rounds: int = 7) -> None:
    """Time loss and gradient of one minibatch, the kernels and plain NumPy in turn."""
    settings = run.settings
    weights = split(run.weights, weight_shapes(settings, n_words))
    starts = np.arange(settings.batch) * settings.window % (training.size - settings.window)
    x, y = windows(training, starts, settings.window)

    def seconds(layers: ModuleType, num_threads: int) -> float:
        rnnkernels.set_num_threads(num_threads)
        started = time.perf_counter()
        loss_and_gradient(layers, settings, weights, x, y)
        return time.perf_counter() - started

    all_threads = rnnkernels.get_num_threads()
    contestants = [(f"kernels, {n} thread{'s' * (n > 1)}", rnnkernels, n) for n in sorted({1, all_threads})]
    contestants.append(("plain NumPy, 1 thread", reference, 1))
    with threadpool_limits(limits=1):  # a BLAS thread more would take a processor from the kernels, too
        times = [[seconds(layers, n) for _, layers, n in contestants] for _ in range(1 + rounds)][1:]
    rnnkernels.set_num_threads(all_threads)
    speeds = [x.size / statistics.median(column) for column in zip(*times, strict=True)]

    print(f"\nLoss and gradient of one minibatch, median of {rounds} rounds in turn:")
    for (name, _, _), speed in zip(contestants, speeds, strict=True):
        print(f"  {name:22}{speed:10,.0f} characters/s, ratio {speed / speeds[-1]:.2f}")


def main(arguments: list[str] | None = None) -> int:
    """Train, report and compare; return the exit status."""
    args = parse_arguments(arguments)
    given = {
        field.name: getattr(args, field.name) for field in dataclasses.fields(Settings) if hasattr(args, field.name)
    }
    if "text" in given:
        given["text"] = str(Path(given["text"]).resolve())
    args.prompt = args.prompt.replace("\\n", "\n").replace("\\t", "\t") or "\n"
    # A sample may hold characters that a Windows console's code page lacks.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]

    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"Cannot make the folder {args.out}: {error.strerror}")
    checkpoint = args.out / "checkpoint.npz"
    resumed = resume(checkpoint, given) if args.resume else None
    settings = resumed.settings if resumed else Settings(**given)

    if settings.dropout > 0 and settings.layers == 1:
        sys.exit("--dropout acts between layers: take two or more, --layers 2.")
    text = read_text(settings)
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    vocabulary = choose_vocabulary(text, settings.vocabulary)
    data = encode(text, vocabulary)
    n_training = round(data.size * (1 - VALIDATION_SHARE))
    training, validation = data[:n_training], data[n_training:]
    if min(training.size, validation.size) <= settings.window + 1:
        sys.exit(
            f"The text has {data.size} characters, too few for windows of {settings.window}: its validation part, "
            f"{VALIDATION_SHARE:.0%}, must be longer than a window. Take a longer text or a smaller --window."
        )

    if resumed:
        if digest != resumed.text_digest:
            sys.exit(f"The text is not the one that {checkpoint} was trained on (or --max-chars or Python changed).")
        run = resumed
        expected = (count_weights(settings, len(vocabulary)),), settings.dtype
        for array in (run.weights, run.adam.mean, run.adam.square):
            if (array.shape, array.dtype) != expected:
                sys.exit(
                    f"{checkpoint} holds {array.dtype} of shape {array.shape} where its settings make {expected[1]} of "
                    f"shape {expected[0]}: it is damaged, or of another version of this script."
                )
    else:
        check_memory(settings, len(vocabulary))
        rng = np.random.default_rng(settings.seed)
        weights = initial_weights(settings, len(vocabulary), rng)
        run = Run(settings, digest, weights, Adam(weights.size, settings.dtype), rng)
        if checkpoint.exists():
            os.replace(checkpoint, args.out / "checkpoint.previous.npz")

    print(
        f"{settings.text or 'Standard library of Python ' + sys.version.split()[0]}: {data.size:,} characters, "
        f"{len(vocabulary)} different ones.\n{settings.cell.upper()}, {settings.dtype}: D = {settings.embedding}, "
        f"H = {settings.hidden}, layers: {settings.layers}, {run.weights.size:,} weights; minibatches of "
        f"{settings.batch} windows of {settings.window} characters."
    )
    if run.step:
        print(f"Resumed after {run.step} steps, {run.seconds:.0f} s.")
    started = time.perf_counter()
    x, y = windows(training, np.zeros(settings.batch, dtype=int), settings.window)
    loss_and_gradient(rnnkernels, settings, split(run.weights, weight_shapes(settings, len(vocabulary))), x, y)
    print(f"First call, compilation included: {time.perf_counter() - started:.1f} s.", flush=True)

    stopped = train(run, training, validation, vocabulary, args)
    plot_loss(run, args.out / "loss.png")
    if stopped:
        print(f"\nStopped after {run.step} steps; {checkpoint} is saved. Go on with --resume.")
        return 128 + stopped
    compare_speed(run, training, len(vocabulary))
    print(f"\nIn {args.out}: checkpoint.npz, loss.png, sample.txt")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
