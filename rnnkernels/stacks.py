"""Stacks of layers: what their backward pass needs, and their streams."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnkernels._checks.settings import check_absent
from rnnkernels._checks.stacks import check_stream_states
from rnnkernels._packed import PackedWeights
from rnnkernels.streaming import Stream, open_stream


@dataclass(frozen=True, eq=False, repr=False)
class StackCache:
    """What the backward pass of a stack of layers needs; treat it as read-only.

    Attributes
    ----------
    parts : tuple of caches
        Of each layer and direction, as the functions for sequences leave them: layer by layer, the reverse direction
        after the other one.
    masks : tuple of ndarray of booleans or None
        Which outputs of each layer but the last were kept, (N, T, F), or (N, 1, F) if for all steps; None for all. F
        is H, or 2H with two directions.
    directions : int
        One or two.
    dropout : float
        With which probability outputs were dropped where there is a mask.
    shapes : tuple
        Shapes of the first states as they were given; None for no state.
    """

    parts: tuple[Any, ...]
    masks: tuple[np.ndarray | None, ...]
    directions: int
    dropout: float
    shapes: tuple[tuple[int, ...] | None, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays, those that the caller has, too."""
        arrays = [*(array for part in self.parts for array in part.arrays()), *self.masks]
        return sum({id(array): array.nbytes for array in arrays if array is not None}.values())

    def __repr__(self) -> str:
        first = self.parts[0]
        (N, T, D), H = first.x.shape, first.Wx.shape[1] // len(first.cell.gates)
        projected = f"P={first.h0.shape[1]}, " if first.cell.projected else ""
        return (
            f"StackCache({len(self.parts)} of {type(first).__name__}, directions={self.directions}, N={N}, "
            f"T={T}, D={D}, H={H}, {projected}dtype={first.x.dtype}, {self.nbytes:,} bytes)"
        )


class StackStream:
    """A stack of layers that takes steps as they come, as the `stream` of a layer returns it.

    See Also
    --------
    LSTMStream : The same for a single layer.

    Notes
    -----
    The bits are those of `forward` for the whole sequence, in inference mode. It runs on the calling thread and belongs
    to one thread at a time. `copy.deepcopy` and `pickle` give an independent one in the same state. An interrupt
    (Ctrl-C) in a long block leaves the layers at different steps; `reset` it then.

    Examples
    --------
    >>> import numpy as np
    >>> import rnnkernels
    >>> layer = rnnkernels.GRU.create(2, 3, num_layers=2, rng=np.random.default_rng(0))
    >>> stream = layer.stream(batch_size=5)
    >>> stream.step(np.ones((5, 2), np.float32)).shape
    (5, 3)
    >>> stream.state
    GRUState(h=float32 (2, 5, 3))
    """

    __slots__ = ("_first", "_others", "_state")

    def __init__(
        self,
        kind: type[Stream],
        state: type[Any],
        parts: tuple[PackedWeights, ...],
        states: dict[str, Any],
        batch_size: int | None,
    ) -> None:
        checked, N = check_stream_states(states, batch_size, len(parts), parts[0].sizes(0, 0))
        streams = [
            open_stream(kind, part, {name[0]: values if values is None else values[k] for name, values in checked}, N)
            for k, part in enumerate(parts)
        ]
        self._first, self._others, self._state = streams[0], streams[1:], state

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64: what the stream computes in and returns."""
        return self._first.dtype

    @property
    def h(self) -> np.ndarray:
        """Hidden states of all layers, of shape (num_layers, N, H), a copy."""
        return self.state.h

    @property
    def state(self) -> Any:
        """States of all layers, of shape (num_layers, N, H) each, a copy."""
        streams = self._first, *self._others
        return self._state(*[np.stack([getattr(s, name) for s in streams]) for name in self._state._fields])

    def nopython(self) -> Any:
        """Weights and states of all layers for functions that Numba compiles, see `Stream.nopython`."""
        return tuple([stream.nopython() for stream in (self._first, *self._others)])

    def step(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Advance by one step.

        Parameters
        ----------
        x : array_like of shape (N, D)
            Input of the step; of another dtype than the stream it is converted.
        out : ndarray of shape (N, H), optional
            Where to write the result: C-contiguous, of the dtype of the stream. It may be `x` itself.

        Returns
        -------
        h : ndarray of shape (N, H)
            Hidden state of the last layer after the step: `out`, or a new array.

        Raises
        ------
        TypeError
            If `x` is neither of float32 or float64 nor of integers, or `out` is of another dtype than the stream.
        ValueError
            If a shape or the layout of `out` does not fit. The state is what it was.
        """
        h = self._first.step(x, out)
        for stream in self._others:
            stream.step(h, h)
        return h

    def steps(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Advance by a block of steps, which costs less than as many calls of `step`.

        Parameters
        ----------
        x : array_like of shape (N, T, D)
            Inputs; of another dtype than the stream they are converted.
        out : ndarray of shape (N, T, H), optional
            Where to write the result: C-contiguous, of the dtype of the stream. It may be `x` itself, or overlap it.

        Returns
        -------
        h : ndarray of shape (N, T, H)
            Hidden states of the last layer after each step: `out`, or a new array.

        Raises
        ------
        TypeError
            If `x` is neither of float32 or float64 nor of integers, or `out` is of another dtype than the stream.
        ValueError
            If a shape or the layout of `out` does not fit. The state is what it was.
        """
        h = self._first.steps(x, out)
        for stream in self._others:
            stream.steps(h, h)
        return h

    def reset(self, h0: Any = None, c0: Any = None, *, rows: Any = None) -> None:
        """Begin anew.

        Parameters
        ----------
        h0 : array_like that broadcasts to (num_layers, N, H), optional
            Hidden states before the next step; zero without it.
        c0 : array_like that broadcasts to (num_layers, N, H), optional
            Cell states, likewise; of an LSTM.
        rows : array_like of booleans of shape (N,), optional
            Which sequences begin anew; all without it.

        Raises
        ------
        TypeError, ValueError
            As for `step`.
        """
        names = [f"{name}0" for name in self._state._fields]
        if "c0" not in names:
            check_absent("c0", c0, "this cell has no cell state")
        streams, packed = [self._first, *self._others], self._first.packed
        given = dict(zip(names, (h0, c0), strict=False))
        checked, _ = check_stream_states(given, len(self._first.h), len(streams), packed.sizes(0, 0))
        for k, stream in enumerate(streams):
            stream.reset(*[values if values is None else values[k] for _, values in checked], rows=rows)

    def __repr__(self) -> str:
        N, packed, kind = len(self._first.h), self._first.packed, type(self._first).__name__
        sizes = f"N={N}, D={packed.D}, H={packed.H}" + (f", P={packed.P}" if packed.cell.projected else "")
        return f"StackStream({1 + len(self._others)} of {kind}, {sizes}, dtype={self.dtype})"
