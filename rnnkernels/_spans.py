"""Sequences inside a batch: where each begins, how long it is, and in which order they go through a pass.

A batch whose sequences are of different length, run backward in time, or begin anew in the middle is, to the kernels,
a batch of *spans*: rows of the caller's arrays one after the other. Longer spans come first, so that those that have a
step are always the first ones.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rnnkernels._checks.arrays import INT64
from rnnkernels._checks.sequences import check_lengths, check_resets, refuse_lengths
from rnnkernels._memory import empty, zeros
from rnnkernels.kernels.spans import BEGINS, COLLECT, ENDS, FIND, ROWS, SEQUENCE, SPREAD


class Spans(NamedTuple):
    """Spans of a batch of sequences, in the order of the kernels; nobody changes the table."""

    table: np.ndarray
    """(5, S), see `rnnkernels.kernels.spans`."""
    onward: int
    """How many rows further the next step is: 1, or -1 in reverse."""
    shape: tuple[int, int]
    """N, T: sequences of the batch, and steps of the arrays."""
    steps: int
    """Of all spans together."""
    longest: int
    """Steps of the longest span."""
    shortest: int
    in_order: bool
    """Whether each span is a sequence and has its number, so that states are the same."""

    @property
    def places(self) -> np.ndarray:
        """(2, S): row of the first step of each span, and number of its steps."""
        return self.table[:2]

    @property
    def sequences(self) -> np.ndarray:
        """(S,): sequence of the batch to which each belongs."""
        return self.table[SEQUENCE]

    @property
    def is_whole(self) -> bool:
        """Whether each row belongs to a span, so that nothing is padding."""
        return self.steps == self.shape[0] * self.shape[1]

    def kept_shapes(self, tape_width: int, units: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Of a tape and a track: a row for each step, and the track has the states before the first one, too."""
        return (self.steps, 1, tape_width), (self.table.shape[1] + self.steps, 1, units)

    def part(self, begin: int, end: int) -> "Spans":
        """The same spans, of which only steps `begin .. end` count."""
        table = self.table.copy()
        first, length = table[:2]
        first += self.onward * begin
        np.clip(length - begin, 0, end - begin, out=length)
        most, least = (int(length[0]), int(length[-1])) if length.size else (0, 0)
        return self._replace(table=_frozen(table), steps=int(length.sum()), longest=most, shortest=least)

    def initial(self, state: np.ndarray) -> np.ndarray:
        """States before each span, of those before each sequence (N, H)."""
        return self._spread(state, BEGINS)

    def final(self, states: np.ndarray) -> np.ndarray:
        """States after each sequence, of those after each span (S, H)."""
        return states if self.in_order else self._collect(states[np.newaxis], ENDS, empty, states.shape[1])

    def final_of_steps(self, states: np.ndarray, width: int) -> np.ndarray:
        """The first columns of states after each sequence, of a track, or of those after the last step (1, S, W)."""
        return self._collect(states, ENDS, empty, width)

    def final_gradient(self, gradient: np.ndarray) -> np.ndarray:
        """The gradient of `final`, from (N, H)."""
        return self._spread(np.ascontiguousarray(gradient), ENDS)

    def initial_gradient(self, gradients: np.ndarray, width: int) -> np.ndarray:
        """The gradient of `initial`, from the first columns (S, width)."""
        if self.in_order:
            return gradients[:, :width]
        return self._collect(gradients[np.newaxis], BEGINS, zeros, width)

    def _spread(self, state: np.ndarray, mark: int) -> np.ndarray:
        if self.in_order:
            return state
        table, dtype = self.table, state.dtype
        spread = empty((table.shape[1], state.shape[1]), dtype)
        SPREAD[dtype](state, table, mark, spread)
        return spread

    def _collect(self, states: np.ndarray, mark: int, allocate: Any, width: int) -> np.ndarray:
        dtype = states.dtype
        found: np.ndarray = allocate((self.shape[0], width), dtype)
        COLLECT[dtype](states, self.table, mark, found)
        return found

    def in_rows(self, steps: np.ndarray) -> np.ndarray:
        """What is kept of each step of each span (steps, 1, ...) as (N, T, ...), zero where there is none."""
        (N, T), (first, length) = self.shape, self.places
        found, begin = np.zeros((N * T, *steps.shape[2:]), steps.dtype), 0
        for t in range(self.longest):
            active = int(np.count_nonzero(length > t))
            found[first[:active] + self.onward * t] = steps[begin : begin + active, 0]
            begin += active
        return found.reshape(N, T, *steps.shape[2:])


MOST_KEPT = 1024
"""Sequences of a batch up to which what only depends on the sizes is kept for the next call."""

FEW_STEPS = 256
"""Steps up to which resets are not counted before they are found: that takes longer than the room for all of them."""

NO_RESETS = np.zeros((0, 0), np.bool_)


def whole_places(N: int, T: int) -> np.ndarray:
    """Places of N sequences of T steps each, one after the other."""
    return _kept_places(N, T) if N <= MOST_KEPT else _make_places(N, T)


def _make_places(N: int, T: int) -> np.ndarray:
    return _frozen(np.stack([np.arange(N, dtype=np.int64) * T, np.full(N, T, np.int64)]))


def whole_spans(N: int, T: int, reverse: bool = False) -> Spans:
    """Spans of N sequences of T steps each."""
    return _kept_spans(N, T, reverse) if N <= MOST_KEPT else _make_whole_spans(N, T, reverse)


def _make_whole_spans(N: int, T: int, reverse: bool) -> Spans:
    return _make_spans(N, T, whole_places(N, T)[1], None, -1 if reverse else 1)


_kept_places = lru_cache(maxsize=64)(_make_places)
_kept_spans = lru_cache(maxsize=64)(_make_whole_spans)


@lru_cache(maxsize=64)
def _kept_spans_of(N: int, T: int, lengths: bytes, onward: int) -> Spans:
    """Spans of sequences of these lengths: all layers of a stack are called with the same ones."""
    return _make_spans(N, T, np.frombuffer(lengths, INT64), None, onward)


def find_spans(N: int, T: int, lengths: Any, reverse: Any, resets: Any) -> Spans | None:
    """Spans of a call with these arguments, which are checked; None where each sequence is whole and goes forward.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    if lengths is None and resets is None:
        return whole_spans(N, T, True) if reverse else None
    length = whole_places(N, T)[1] if lengths is None else check_lengths(lengths, N)
    if resets is None and N <= MOST_KEPT:
        spans = _kept_spans_of(N, T, length.tobytes(), -1 if reverse else 1)
    else:
        is_new = None if resets is None else check_resets(resets, N, T)
        spans = _make_spans(N, T, length, is_new, -1 if reverse else 1)
    if spans.table.shape[1] < N:
        refuse_lengths(lengths, T)
    if spans.in_order and spans.steps == N * T:
        return whole_spans(N, T, True) if reverse else None
    return spans


_new = tuple.__new__


def _make_spans(N: int, T: int, length: np.ndarray, is_new: np.ndarray | None, onward: int) -> Spans:
    """Spans of sequences of this `length` that begin anew at the steps that are `is_new`; none if a length is wrong."""
    most = N
    if is_new is None:
        is_new = NO_RESETS
    else:
        most += is_new.size if is_new.size <= FEW_STEPS else int(np.count_nonzero(is_new))
    flat, work = empty((ROWS * most,), INT64), empty((T + 2 + ROWS * most,), INT64)
    S, steps, longest, shortest, in_order = FIND[INT64](length, is_new, T, onward, flat, work)
    if most > S:
        S = max(S, 0)
        flat = flat[: ROWS * S]
    return _new(Spans, (_frozen(flat.reshape(ROWS, S)), onward, (N, T), steps, longest, shortest, in_order))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
