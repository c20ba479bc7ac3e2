"""What the scripts that train a model share."""

from __future__ import annotations

import argparse
import math
import signal
from types import FrameType

import numpy as np

Weights = dict[str, np.ndarray]


def positive_int(text: str) -> int:
    """Parse an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def seed(text: str) -> int:
    """Parse an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {value}")
    return value


def positive_float(text: str) -> float:
    """Parse a finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, got {value}")
    return value


def split(flat: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> Weights:
    """View one flat vector as the named weights: the optimiser sees one array, the layers see theirs."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(flat, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


class Adam:
    """Adam (Kingma & Ba, 2015) on one flat vector."""

    def __init__(self, size: int, dtype: str, beta1: float = 0.9, beta2: float = 0.99, eps: float = 1e-8) -> None:
        self.mean = np.zeros(size, dtype)
        self.square = np.zeros(size, dtype)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def update(self, weights: np.ndarray, gradient: np.ndarray, step: int, learning_rate: float) -> None:
        """Move the weights, in place; `step` counts from 1."""
        self.mean += (1 - self.beta1) * (gradient - self.mean)
        self.square += (1 - self.beta2) * (gradient * gradient - self.square)
        scale = math.sqrt(1 - self.beta2**step)
        rate = learning_rate * scale / (1 - self.beta1**step)
        weights -= rate * self.mean / (np.sqrt(self.square) + scale * self.eps)


class StopRequest:
    """Ctrl-C or a polite kill, noted so that the step under way can end; a second one stops at once."""

    def __init__(self) -> None:
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.note)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Take the signal."""
        self.signal = number
        self.withdraw()

    def withdraw(self) -> None:
        """Give the signals their usual effect again."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
