"""What backward passes of recurrent cells need: fields, and their gates and states by name."""

import itertools
from typing import Any, NamedTuple, TypeVar

import numpy as np

from rnnkernels import _sequence
from rnnkernels._checks.caches import refuse_kept
from rnnkernels._sequence import Checkpoints
from rnnkernels._spans import Spans
from rnnkernels.kernels.cell import Cell

CacheT = TypeVar("CacheT", bound="RecurrentCache")


class _Fields(NamedTuple):
    x: np.ndarray
    h0: np.ndarray
    Wx: np.ndarray
    Wh: np.ndarray
    tape: np.ndarray
    track: np.ndarray


class RecurrentCache(_Fields):
    """What the backward pass of a cell needs; treat it as read-only.

    Attributes
    ----------
    x : ndarray of shape (N, T, D), or (N, D) for a step
        Inputs: the caller's array, not a copy, unless its dtype or layout had to change.
    h0 : ndarray of shape (N, H)
        Hidden state before the first step, likewise; (N, P) where it is projected.
    Wx, Wh : ndarray of shape (D, G * H) and (H, G * H)
        Weights, likewise; Wh (P, G * H) where the hidden state is projected.
    tape : ndarray of shape (T, N, K * U)
        What is kept of each step, time-major, in the order of the kernels. U is H rounded up to whole vectors.
    track : ndarray of shape (T + 1, N, U)
        The state that is kept, before the first step and after each.

    Where sequences differ in length, are reversed or reset, both have a row for each step there is: (rows, 1, ...).
    """

    cell: Cell
    """Of which it is."""
    shapes: tuple[tuple[int, ...] | None, ...] | None = None
    """Of x and the states of a step as they were given, where they were broadcast."""
    spans: Spans | None = None
    """Sequences of the tape and the track where these are not the rows of x."""
    checkpoints: Checkpoints | None = None
    """What there is instead of the steps of tape and track, if it is to take little memory."""
    own: np.ndarray | None = None
    """The bias (G * H,) that the row functions of the cell read, if there is one."""
    projection: np.ndarray | None = None
    """What makes the hidden state (H, P) of a projected cell."""
    clip: float | None = None
    """Largest magnitude of what went into the activations of gates, if it was bounded."""

    @property
    def _hidden(self) -> int:
        """H."""
        return self.Wx.shape[1] // len(self.cell.gates)

    def _kept(self, name: str) -> np.ndarray:
        """What the tape has under a name, (N, T, H), a copy."""
        kept = _sequence.natural(self.tape, self._hidden, len(self.cell.tape))
        return self._in_rows(kept[:, :, self.cell.tape.index(name)])

    def _tracked(self) -> np.ndarray:
        """The tracked state after each step, (N, T, H), a copy."""
        before = 1 if self.spans is None else self.spans.table.shape[1]
        return self._in_rows(self.track[before:, :, : self._hidden])

    def _in_rows(self, steps: np.ndarray) -> np.ndarray:
        """(T, N, H) of the kernels as (N, T, H) of x."""
        if self.checkpoints is not None:
            refuse_kept()
        return np.moveaxis(steps, 0, 1).copy() if self.spans is None else self.spans.in_rows(steps)

    def in_dtype(self: CacheT, dtype: np.dtype) -> CacheT:
        """The same in another dtype."""
        if self.x.dtype == dtype:
            return self
        x, h0, Wx, Wh = (array.astype(dtype) for array in self[:4])
        cache = _restore(type(self), x, h0, Wx, Wh, *self._natural(), dtype)
        cache.shapes, cache.spans, cache.clip = self.shapes, self.spans, self.clip
        if self.checkpoints is not None:
            cache.checkpoints = self.checkpoints.in_dtype(dtype)
        if self.own is not None:
            cache.own = self.own.astype(dtype)
        if self.projection is not None:
            cache.projection = self.projection.astype(dtype)
        return cache

    def arrays(self) -> list[np.ndarray]:
        """All that it holds, those that the caller has, too."""
        of_states = () if self.checkpoints is None else [*itertools.chain(*self.checkpoints.states)]
        more = () if self.checkpoints is None else self.checkpoints.biases
        return [array for array in (*self, self.own, self.projection, *of_states, *more) if array is not None]

    def _natural(self) -> tuple[np.ndarray, np.ndarray]:
        """Tape and track in the natural order of columns."""
        hidden, kept = self._hidden, len(self.cell.tape)
        tape = _sequence.natural(self.tape, hidden, kept) if kept else np.zeros((*self.tape.shape[:2], 0, hidden))
        return tape, _sequence.natural(self.track, hidden, 1)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle in natural order: that of the kernels differs from processor to processor."""
        return (
            _restore,
            (type(self), *self[:4], *self._natural(), self.x.dtype),
            vars(self).copy(),
        )

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={a.shape}" for name, a in self._asdict().items())
        n_bytes = sum({id(array): array.nbytes for array in self.arrays()}.values())
        if self.projection is not None:
            fields += f", projection={self.projection.shape}"
        if self.clip is not None:
            fields += f", clip={self.clip:g}"
        if self.checkpoints is not None:
            fields += f", {len(self.checkpoints.states)} checkpoints"
        return f"{type(self).__name__}({fields}, dtype={self.x.dtype}, {n_bytes:,} bytes)"


def _restore(
    kind: type[CacheT],
    x: np.ndarray,
    h0: np.ndarray,
    Wx: np.ndarray,
    Wh: np.ndarray,
    tape: np.ndarray,
    track: np.ndarray,
    dtype: np.dtype,
) -> CacheT:
    tape, track = (_sequence.interleaved(natural, dtype) for natural in (tape, track))
    return kind(x, h0, Wx, Wh, tape, track)
