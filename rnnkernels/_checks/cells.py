"""Checks of the arguments of recurrent cells: weights, biases, peepholes, and the input and the states of a call."""

import math
import sys
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rnnkernels._checks.arrays import check_axes, check_given_float, check_given_floats, check_shape, is_plain
from rnnkernels.kernels.cell import Cell


class Sizes(NamedTuple):
    """Sizes of a call: sequences, steps, inputs, hidden units."""

    N: int
    T: int
    D: int
    H: int
    projected: int = 0
    """Columns of a hidden state that is projected; 0 where it is not."""

    @property
    def P(self) -> int:
        """Columns of the hidden state."""
        return self.projected or self.H


class Arguments(NamedTuple):
    """Checked arguments of a forward pass or step."""

    x: np.ndarray
    """(N, T, D), or (N, D) for a step."""
    states: tuple[np.ndarray, ...]
    """(N, H) each; h (N, P) where it is projected."""
    Wx: np.ndarray
    Wh: np.ndarray
    biases: tuple[np.ndarray, ...]
    sizes: Sizes
    shapes: tuple[tuple[int, ...] | None, ...] | None
    """Of x and of the states as they were given, None for no state, where one was broadcast."""


def check_weights(
    cell: Cell,
    Wx: np.ndarray,
    Wh: np.ndarray,
    biases: dict[str, np.ndarray],
    D: int,
    H: int,
    state: str,
    x: str = "`x` and ",
) -> None:
    """Reject weights that do not fit D inputs and H hidden units, which come from `x` and from the argument `state`.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    columns, count, P, of_Wh = cell.columns, len(cell.gates) * H, H, f"`{state}`"
    if cell.projected:
        P = biases["projection"].size // max(H, 1)
        of_Wh = f"`projection` and `{state}`"
    cure = ""
    if len(cell.gates) > 1 and (Wx.shape == (count, D) != (D, count) or Wh.shape == (count, P) != (P, count)):
        cure = (
            f" Gate blocks are columns here, in the order {', '.join(cell.gates)}: take the transpose of a PyTorch"
            f" weight{cell.cure_of_pytorch}."
        )
    check_shape("Wx", Wx, f"(D, {columns})", (D, count), f"{x}`{state}`", cure)
    check_shape("Wh", Wh, f"({cell.h_symbol}, {columns})", (P, count), of_Wh, cure)
    for name, bias in list(biases.items())[: cell.bias_count]:
        check_shape(name, bias, f"({columns},)", (count,), f"`{state}`")


def check_arguments(
    cell: Cell,
    x: Any,
    names: tuple[str, ...],
    states: tuple[Any, ...],
    Wx: Any,
    Wh: Any,
    biases: dict[str, Any],
    is_step: bool = False,
) -> Arguments:
    """Check the arguments of a forward pass, or of a step.

    States may be None, which is zero, and broadcast to (N, H); so does the input of a step. The dtype is that of the
    input and of the weights; states are converted to it. A projection is flat, as `check_projection` returns it.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit.
    """
    axes = 2 if is_step else 3
    if len(biases) > 1:
        biases = whole_biases(biases)
    given = (x, *states, Wx, Wh, *biases.values())
    if type(x) is np.ndarray and x.ndim == axes and is_plain(x.dtype, given) and len(states) == len(cell.states):
        shape, (N, P) = x.shape, states[0].shape if states[0].ndim == 2 else (0, -1)
        D, H, whole = shape[-1], P, tuple(biases.values())
        if cell.projected and states[1].ndim == 2:
            H = states[1].shape[1]
        count = len(cell.gates) * H
        if (
            shape[0] == N
            and Wx.shape == (D, count)
            and Wh.shape == (P, count)
            and all(bias.shape == (count,) for bias in whole[: cell.bias_count])
            and (not cell.projected or whole[-1].shape == (H * P,))
            and all(state.shape == (N, width) for state, width in zip(states, (P, H), strict=False))
        ):
            return Arguments(
                x, states, Wx, Wh, whole, Sizes(N, 1 if is_step else shape[1], D, H, P * cell.projected), None
            )
    return _check_arguments(cell, x, names, states, Wx, Wh, biases, is_step)


def whole_biases(biases: dict[str, Any]) -> dict[str, Any]:
    """Biases with zeros for those that are None."""
    (first, *others) = biases.values()
    if first is None or all(bias is not None for bias in others):
        return biases
    return {name: np.zeros_like(first) if bias is None else bias for name, bias in biases.items()}


def _check_arguments(
    cell: Cell,
    x: Any,
    names: tuple[str, ...],
    states: tuple[Any, ...],
    Wx: Any,
    Wh: Any,
    biases: dict[str, Any],
    is_step: bool,
) -> Arguments:
    x, Wx, Wh, *checked = check_given_floats(" ".join(["x", "Wx", "Wh", *biases]), x, Wx, Wh, *biases.values())
    biases = dict(zip(biases, checked, strict=True))
    (state_name, *_), dtype = names, x.dtype
    raw = [None if state is None else check_given_float(name, state) for name, state in zip(names, states, strict=True)]
    given_shapes = tuple([None if state is None else state.shape for state in raw])
    if is_step:
        if x.ndim not in (1, 2):
            check_axes("x", x, "(N, D)")
    else:
        check_axes("x", x, "(N, T, D)")
    wholes = [(s.shape[1], name) for name, s in zip(names, raw, strict=True) if s is not None and s.ndim == 2]
    if wholes and not cell.projected:
        H, source = wholes[0]
    else:
        check_axes("b", biases["b"], f"({cell.columns},)")
        H, source = biases["b"].size // len(cell.gates), "b"
    P = biases["projection"].size // max(H, 1) if cell.projected else H
    batches = [shape[0] for shape in given_shapes if shape is not None and len(shape) == 2]
    if is_step:
        rows = {count for count in (x.shape[0] if x.ndim == 2 else 1, *batches) if count != 1}
        N = x.shape[0] if x.ndim == 2 and x.shape[0] != 1 else rows.pop() if len(rows) == 1 else 1
    else:
        N = x.shape[0]
    D = x.shape[-1]
    whole_states, widths = [], (P, H)
    for name, state, width, symbol in zip(names, raw, widths, (cell.h_symbol, "H"), strict=False):
        if state is None:
            whole_states.append(np.zeros((N, width), dtype))
            continue
        if state.ndim > 2:
            check_axes(name, state, f"(N, {symbol})")
        if state.shape not in ((), (width,), (1, width), (N, width)):
            match = "`x`" if name == state_name else f"`x` and `{state_name}`"
            if cell.projected:
                match = "`x` and `projection`"
            cure = f" It may also be (1, {symbol}), ({symbol},) or a number, for all rows."
            check_shape(name, state, f"(N, {symbol})", (N, width), match, cure)
        whole = state if state.shape == (N, width) else np.broadcast_to(state, (N, width))
        whole_states.append(np.require(whole, dtype, ["C", "A"]))
    check_weights(cell, Wx, Wh, biases, D, H, source)
    shapes: tuple[tuple[int, ...] | None, ...] | None = (x.shape, *given_shapes)
    is_given_whole = all(shape == (N, width) for shape, width in zip(given_shapes, widths, strict=False))
    if is_given_whole and x.ndim == (2 if is_step else 3) and x.shape[0] == N:
        shapes = None
    if is_step:
        x = np.require(np.broadcast_to(x, (N, D)), dtype, ["C", "A"])
    T = 1 if is_step else x.shape[1]
    return Arguments(
        x, tuple(whole_states), Wx, Wh, tuple(biases.values()), Sizes(N, T, D, H, P * cell.projected), shapes
    )


def check_layer(
    cell: Cell, Wx: Any, Wh: Any, biases: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Check the weights of a layer or of a stream; a projection is flat, as `check_projection` returns it.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit.
    """
    biases = whole_biases(biases)
    Wx, Wh, *checked = check_given_floats(" ".join(["Wx", "Wh", *biases]), Wx, Wh, *biases.values())
    checked_biases = dict(zip(biases, checked, strict=True))
    columns = cell.columns
    check_axes("Wx", Wx, f"(D, {columns})")
    check_axes("Wh", Wh, f"({cell.h_symbol}, {columns})")
    for name, bias in list(checked_biases.items())[: cell.bias_count]:
        check_axes(name, bias, f"({columns},)")
    b = checked_biases["b"]
    H = hidden_units(cell, "b", b)
    transposed = Wx.shape[0] == b.size != Wx.shape[1]
    check_weights(cell, Wx, Wh, checked_biases, Wx.shape[1 if transposed else 0], H, "b", "")
    return Wx, Wh, tuple(checked)


def check_bound(name: str, bound: Any, of_what: str) -> float:
    """Return the largest magnitude of something.

    Raises
    ------
    TypeError, ValueError
        If it is no positive number.
    """
    if isinstance(bound, bool) or not isinstance(bound, (int, float, np.integer, np.floating)):
        raise TypeError(f"`{name}` must be a number; got {type(bound).__name__}.")
    if not bound > 0:
        raise ValueError(f"`{name}` must be positive, the largest magnitude of {of_what}; got {bound}.")
    return float(min(bound, sys.maxsize) if isinstance(bound, int) else bound)


def in_range(bound: float, dtype: np.dtype) -> float:
    """A bound, or infinity if it is more than all numbers of a dtype."""
    return bound if bound <= float(np.finfo(dtype).max) else math.inf


def check_peepholes(cell: Cell, peepholes: Any, cell_clip: Any, Wh: Any) -> np.ndarray | None:
    """Return peepholes and the bound of the cell state as the bias of the cell that is for its row functions.

    None if the weights of the hidden state are no matrix, which another check finds.

    Raises
    ------
    TypeError, ValueError
        If the peepholes do not fit the weights, or the bound is not positive.
    """
    cell_clip = math.inf if cell_clip is None else check_bound("cell_clip", cell_clip, "a cell state")
    Wh = check_given_float("Wh", Wh)
    if Wh.ndim != 2:
        return None
    seen = len(cell.gates) - 1
    H = Wh.shape[1] // len(cell.gates) if cell.projected else len(Wh)
    if peepholes is None:
        return _bound_alone(seen, H, cell_clip, Wh.dtype)
    peepholes = check_given_float("peepholes", peepholes)
    check_shape("peepholes", peepholes, f"({seen}, H)", (seen, H), "`Wh`")
    own = np.zeros((seen + 1, H), peepholes.dtype)
    own[:seen], own[seen] = peepholes, in_range(cell_clip, peepholes.dtype)
    return own.reshape(-1)


@lru_cache(maxsize=256)
def _bound_alone(seen: int, H: int, cell_clip: float, dtype: np.dtype) -> np.ndarray:
    """No peepholes, and the bound; read-only, since calls share it."""
    own = np.zeros((seen + 1, H), dtype)
    own[seen] = in_range(cell_clip, dtype)
    own.setflags(write=False)
    return own.reshape(-1)


def check_projection(cell: Cell, projection: Any, b: Any) -> np.ndarray:
    """Return a projection (H, P) as a flat array; other checks hold other arguments against it.

    Raises
    ------
    TypeError, ValueError
        If its dtype is none, or it does not fit the bias.
    """
    projection, b = check_given_float("projection", projection), check_given_float("b", b)
    check_axes("projection", projection, "(H, P)")
    check_axes("b", b, f"({cell.columns},)")
    H, P = hidden_units(cell, "b", b), projection.shape[1]
    cure = " This is its transpose, as PyTorch has it: pass `projection.T`." if P == H != len(projection) else ""
    check_shape("projection", projection, "(H, P)", (H, P), "`b`", cure)
    if H * P == 0:
        raise ValueError(f"`projection` must have shape (H, P) with H >= 1 and P >= 1; got {projection.shape}.")
    return projection.reshape(-1)


def hidden_units(cell: Cell, name: str, b: np.ndarray) -> int:
    """How many a bias is for."""
    gates = len(cell.gates)
    if b.size % gates != 0:
        raise ValueError(f"`{name}` must have shape ({cell.columns},), a multiple of {gates} elements; got {b.shape}.")
    return b.size // gates
