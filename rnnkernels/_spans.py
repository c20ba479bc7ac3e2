"""Sequences inside a batch: where each begins, how long it is, and in which order they go through a pass.

A batch whose sequences are of different length, run backward in time, or begin anew in the middle is, to the kernels,
a batch of *spans*: rows of the caller's arrays one after the other. Longer spans come first, so that those that have a
step are always the first ones.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rnnkernels._checks import check_lengths, check_resets


class Spans(NamedTuple):
    """Spans of a batch of sequences, in the order of the kernels; nobody changes the arrays."""

    places: np.ndarray
    """(2, S): row of the first step of each span, and number of its steps."""
    onward: int
    """How many rows further the next step is: 1, or -1 in reverse."""
    sequences: np.ndarray
    """(S,): sequence of the batch to which each belongs."""
    begins: np.ndarray
    """(S,): whether the initial state of the sequence is that of the span; otherwise it is zero."""
    ends: np.ndarray
    """(S,): whether the state after the span is that after the sequence."""
    shape: tuple[int, int]
    """N, T: sequences of the batch, and steps of the arrays."""
    steps: int
    """Of all spans together."""

    @property
    def longest(self) -> int:
        """Steps of the longest span."""
        return int(self.places[1, 0]) if self.places.size else 0

    @property
    def is_whole(self) -> bool:
        """Whether each row belongs to a span, so that nothing is padding."""
        return self.steps == self.shape[0] * self.shape[1]

    def part(self, begin: int, end: int) -> "Spans":
        """The same spans, of which only steps `begin .. end` count."""
        first, length = self.places
        steps = np.clip(length - begin, 0, end - begin)
        places = _frozen(np.stack([first + self.onward * begin, steps]))
        return self._replace(places=places, steps=int(steps.sum()))

    def initial(self, state: np.ndarray) -> np.ndarray:
        """States before each span, of those before each sequence (N, H)."""
        spread = state[self.sequences]
        spread[~self.begins] = 0
        return spread

    def final(self, states: np.ndarray) -> np.ndarray:
        """States after each sequence, of those after each span (S, H)."""
        found = np.zeros((self.shape[0], *states.shape[1:]), states.dtype)
        found[self.sequences[self.ends]] = states[self.ends]
        return found

    def final_gradient(self, gradient: np.ndarray) -> np.ndarray:
        """The gradient of `final`, from (N, H)."""
        spread = gradient[self.sequences]
        spread[~self.ends] = 0
        return spread

    def initial_gradient(self, gradients: np.ndarray) -> np.ndarray:
        """The gradient of `initial`, from (S, H)."""
        found = np.zeros((self.shape[0], *gradients.shape[1:]), gradients.dtype)
        found[self.sequences[self.begins]] = gradients[self.begins]
        return found

    def in_rows(self, steps: np.ndarray) -> np.ndarray:
        """What is kept of each step of each span (longest, S, ...) as (N, T, ...), zero where there is none."""
        (N, T), length = self.shape, self.places[1]
        found = np.zeros((N * T, *steps.shape[2:]), steps.dtype)
        for t in range(len(steps)):
            active = length > t
            found[self.places[0, active] + self.onward * t] = steps[t, active]
        return found.reshape(N, T, *steps.shape[2:])


MOST_KEPT = 1024
"""Sequences of a batch up to which what only depends on the sizes is kept for the next call."""


def whole_places(N: int, T: int) -> np.ndarray:
    """Places of N sequences of T steps each, one after the other."""
    return _kept_places(N, T) if N <= MOST_KEPT else _make_places(N, T)


def _make_places(N: int, T: int) -> np.ndarray:
    return _frozen(np.stack([np.arange(N, dtype=np.int64) * T, np.full(N, T, np.int64)]))


def whole_spans(N: int, T: int, reverse: bool = False) -> Spans:
    """Spans of N sequences of T steps each."""
    return _kept_spans(N, T, reverse) if N <= MOST_KEPT else _make_whole_spans(N, T, reverse)


def _make_whole_spans(N: int, T: int, reverse: bool) -> Spans:
    return _make_spans((N, T), np.full(N, T, np.int64), None, reverse)


_kept_places = lru_cache(maxsize=64)(_make_places)
_kept_spans = lru_cache(maxsize=64)(_make_whole_spans)


def find_spans(N: int, T: int, lengths: Any, reverse: Any, resets: Any) -> Spans | None:
    """Spans of a call with these arguments, which are checked; None where each sequence is whole and goes forward.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    if lengths is None and resets is None:
        return whole_spans(N, T, True) if reverse else None
    length = np.full(N, T, np.int64) if lengths is None else check_lengths(lengths, N, T)
    is_new = None if resets is None else check_resets(resets, N, T)
    return _make_spans((N, T), length, is_new, bool(reverse))


def _make_spans(shape: tuple[int, int], length: np.ndarray, is_new: np.ndarray | None, reverse: bool) -> Spans:
    """Spans of sequences of this `length` that begin anew at the steps that are `is_new`, in the order of the pass."""
    N, T = shape
    sequences, begin, stop = np.arange(N), np.zeros(N, np.int64), length
    begins = ends = np.ones(N, np.bool_)
    if is_new is not None and T > 0:
        number = np.arange(T)  # of a step, in the order of the pass
        starts = is_new
        if reverse:
            starts = np.take_along_axis(is_new, np.maximum(length[:, np.newaxis] - 1 - number, 0), axis=1)
        starts = starts & (number < length[:, np.newaxis])
        is_zero = starts[:, 0].copy()
        starts[:, 0] = True  # each sequence has a span, if only of no step
        sequences, begin = np.nonzero(starts)
        ends = np.append(sequences[1:] != sequences[:-1], np.True_)
        stop = np.where(ends, length[sequences], np.append(begin[1:], 0))
        begins = (begin == 0) & ~is_zero[sequences]
    first = length[sequences] - 1 - begin if reverse else begin
    order = np.argsort(begin - stop, kind="stable")
    places = np.stack([sequences * T + first, stop - begin])[:, order]
    sequences, begins, ends = (_frozen(array[order]) for array in (sequences, begins, ends))
    places = _frozen(np.ascontiguousarray(places, np.int64))
    return Spans(places, -1 if reverse else 1, sequences, begins, ends, shape, int(length.sum()))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
