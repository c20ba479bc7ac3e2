"""Every check and every error message of the package.

The messages name the argument, the rule in symbols and in numbers, what came, and the cure where it is known. The
functions return what the kernels need: arrays of one float dtype, C-contiguous and aligned, without a copy where the
argument is so already.
"""

import importlib
import math
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from rnnkernels.kernels import jit
from rnnkernels.kernels import spans as span_kernels
from rnnkernels.kernels.cell import Cell

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
INTP = np.dtype(np.intp)
INT64 = np.dtype(np.int64)

IN_LAYOUT = 0x101
"""Flags of an array in the layout of the kernels, C-contiguous and aligned, in `flags.num`."""

CacheT = TypeVar("CacheT")


class Sizes(NamedTuple):
    """Sizes of a call: sequences, steps, inputs, hidden units."""

    N: int
    T: int
    D: int
    H: int


def check_floats(names: str, *values: Any) -> list[np.ndarray]:
    """Bring arguments to one float dtype and to the layout of the kernels.

    Parameters
    ----------
    names : str
        Names of the arguments, separated by spaces, for the messages.
    *values : array_like
        The arguments.

    Returns
    -------
    list of ndarray
        C-contiguous, aligned arrays of dtype float32 or float64, `np.result_type` of the arguments; see `for_kernels`.

    Raises
    ------
    TypeError
        If an argument is neither of float32 or float64 nor of integers.
    ValueError
        If an argument cannot be made an array.
    """
    return [for_kernels(array) for array in check_given_floats(names, *values)]


def check_given_floats(names: str, *values: Any) -> list[np.ndarray]:
    """Do as `check_floats`, but return the caller's own arrays where they fit: what is read-only stays so.

    These are what a cache may hold, and what an entry point of a kernel takes.
    """
    dtype = getattr(values[0], "dtype", None)
    for value in values:
        if type(value) is not np.ndarray or value.dtype != dtype:
            break
        flags = value.flags
        if not (flags.c_contiguous and flags.aligned):
            break
    else:
        if dtype in (FLOAT32, FLOAT64):
            return list(values)
    arrays = [_as_array(name, value) for name, value in zip(names.split(), values, strict=True)]
    dtypes = []
    for name, array in zip(names.split(), arrays, strict=True):
        if array.dtype.kind in "iuf" and (array.dtype.kind != "f" or array.dtype.itemsize in (4, 8)):
            dtypes.append(array.dtype.newbyteorder("="))
        else:
            raise TypeError(
                f"`{name}` must be of float32 or float64, or of integers, which count as float64; got {array.dtype}. "
                f"Convert it, for example with `np.asarray({name}, np.float32)`."
            )
    common = np.result_type(*dtypes)
    return [np.require(array, common if common.kind == "f" else FLOAT64, ["C", "A"]) for array in arrays]


def check_given_float(name: str, value: Any) -> np.ndarray:
    """Do as `check_given_floats` for one argument."""
    if type(value) is np.ndarray and ((dtype := value.dtype) is FLOAT32 or dtype is FLOAT64):
        flags = value.flags
        if flags.c_contiguous and flags.aligned:
            return value
    return check_given_floats(name, value)[0]


IF_NONE = {
    "b": " A layer without bias takes zeros.",
    "mask": " Where every step counts it is `np.ones(y.shape)`.",
}


def _as_array(name: str, value: Any) -> np.ndarray:
    if value is None:
        raise TypeError(f"`{name}` must be an array; got None.{IF_NONE.get(name, ' It has no default.')}")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"`{name}` cannot be made an array: {error}") from None


class _WritableAlias:
    """The memory of a read-only array, for kernels that do not write to it; see `for_kernels`."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def for_kernels(array: np.ndarray) -> np.ndarray:
    """Return the array, or its memory as a writable one if it is read-only.

    Numba compiles a kernel once more for read-only arguments, and a copy could be large. The alias is for the arguments
    of kernels only: who writes to it may end the process. A cache holds `as_given` of it.
    """
    return array if array.flags.writeable else np.asarray(_WritableAlias(array))


def as_given(array: np.ndarray) -> np.ndarray:
    """Return the read-only array that `for_kernels` made this one of, or the array itself."""
    return array.base.array if type(array.base) is _WritableAlias else array


def check_indices(name: str, value: Any, used: np.ndarray | None = None) -> np.ndarray:
    """Bring an argument of indices to a C-contiguous array of `np.intp`; where `used` is false they may be anything.

    Raises
    ------
    TypeError
        If it is not of integers.
    IndexError
        If one is larger than any index.
    """
    if type(value) is np.ndarray and value.dtype == INTP:
        flags = value.flags
        if flags.c_contiguous and flags.aligned:
            return value
    array = _as_array(name, value)
    if array.dtype.kind not in "iu" and array.size > 0:
        _reject_long_integers(name, value)
        raise TypeError(f"`{name}` must be of integers, since it holds indices; got {array.dtype}.")
    if array.dtype.kind == "u" and array.dtype.itemsize >= np.dtype(np.intp).itemsize:
        if used is not None and used.shape == array.shape:
            array = np.where(used != 0, array, np.zeros((), array.dtype))
        if array.size > 0 and array.max() > np.iinfo(np.intp).max:
            place = np.unravel_index(int(np.argmax(array)), array.shape)
            raise IndexError(f"`{name}`{_at(place)} = {array[place]} is beyond every array.")
    return np.require(array, INTP, ["C", "A"])


def _reject_long_integers(name: str, value: Any) -> None:
    """Name the first index that no integer dtype holds, where only such make a list of integers something else."""
    numbers = np.asarray(value, object)
    if all(isinstance(number, int | np.integer) and not isinstance(number, bool) for number in numbers.flat):
        for place, number in np.ndenumerate(numbers):
            if not -sys.maxsize <= number <= sys.maxsize:
                raise IndexError(f"`{name}`{_at(place)} = {number} is beyond every array.")


def _at(place: tuple[Any, ...]) -> str:
    return f"[{', '.join(str(int(i)) for i in place)}]" if place else ""


def check_index_range(name: str, indices: np.ndarray, count: int, rule: str, used: np.ndarray | None = None) -> None:
    """Reject indices outside 0 <= index < count; where `used` is given, only those where it is true matter.

    Raises
    ------
    IndexError
        If one is outside; kernels do not check bounds.
    """
    if indices.size == 0 or (used is None and indices.min() >= 0 and indices.max() < count):
        return
    outside = (indices < 0) | (indices >= count)
    if used is not None:
        outside &= used
    if outside.any():
        place = tuple(np.argwhere(outside)[0])
        raise IndexError(f"`{name}`{_at(place)} = {indices[place]} is outside 0 <= index < {rule} = {count}.")


def check_axes(name: str, array: np.ndarray, symbols: str, cure: str = "") -> None:
    """Reject an array whose number of axes is not that of `symbols`, such as "(N, T, D)".

    Raises
    ------
    ValueError
        If it is not; with `cure`.
    """
    axes = symbols.count(",") + (not symbols.endswith(",)"))
    if array.ndim != axes:
        raise ValueError(f"`{name}` must have shape {symbols}, {axes} axes; got shape {array.shape}.{cure}")


def check_shape(
    name: str, array: np.ndarray, symbols: str, shape: tuple[int, ...], match: str = "", cure: str = ""
) -> None:
    """Reject an array that is not of `shape`.

    Raises
    ------
    ValueError
        If it is not; with `match`, the arguments that ask for the shape, and `cure`.
    """
    if array.shape == shape:
        return
    reason = f" to match {match}" if match else ""
    if not cure and array.ndim == 2 and array.shape == shape[::-1]:
        cure = f" This is its transpose: pass `{name}.T`."
    raise ValueError(f"`{name}` must have shape {symbols} = {shape}{reason}; got {array.shape}.{cure}")


class Arguments(NamedTuple):
    """Checked arguments of a forward pass or step."""

    x: np.ndarray
    """(N, T, D), or (N, D) for a step."""
    states: tuple[np.ndarray, ...]
    """(N, H) each."""
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
    columns, count = cell.columns, len(cell.gates) * H
    cure = ""
    if len(cell.gates) > 1 and (Wx.shape == (count, D) != (D, count) or Wh.shape == (count, H)):
        cure = (
            f" Gate blocks are columns here, in the order {', '.join(cell.gates)}: take the transpose of a PyTorch"
            f" weight{cell.cure_of_pytorch}."
        )
    check_shape("Wx", Wx, f"(D, {columns})", (D, count), f"{x}`{state}`", cure)
    check_shape("Wh", Wh, f"(H, {columns})", (H, count), f"`{state}`", cure)
    for name, bias in biases.items():
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
    input and of the weights; states are converted to it.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit.
    """
    axes = 2 if is_step else 3
    if len(biases) > 1:
        biases = whole_biases(biases)
    given = (x, *states, Wx, Wh, *biases.values())
    if type(x) is np.ndarray and x.ndim == axes and is_plain(x.dtype, given):
        shape, (N, H) = x.shape, states[0].shape if states[0].ndim == 2 else (0, -1)
        D, count = shape[-1], len(cell.gates) * H
        if (
            shape[0] == N
            and Wx.shape == (D, count)
            and Wh.shape == (H, count)
            and all(bias.shape == (count,) for bias in biases.values())
            and all(state.shape == (N, H) for state in states)
        ):
            if is_step:
                return Arguments(x, states, Wx, Wh, tuple(biases.values()), Sizes(N, 1, D, H), None)
            return Arguments(x, states, Wx, Wh, tuple(biases.values()), Sizes(N, shape[1], D, H), None)
    return _check_arguments(cell, x, names, states, Wx, Wh, biases, is_step)


def whole_biases(biases: dict[str, Any]) -> dict[str, Any]:
    """Biases with zeros for those that are None."""
    (first, *others) = biases.values()
    if first is None or all(bias is not None for bias in others):
        return biases
    return {name: np.zeros_like(first) if bias is None else bias for name, bias in biases.items()}


def is_plain(dtype: np.dtype | None, arrays: Iterable[Any]) -> bool:
    """Whether all are of float32 or all of float64, as the argument `dtype` is, and in the layout of the kernels."""
    if dtype not in (FLOAT32, FLOAT64):
        return False
    for array in arrays:
        # The dtype of an array that comes out of a pickle is equal to the others, but not the same object.
        if type(array) is not np.ndarray or (array.dtype is not dtype and array.dtype != dtype):
            return False
        if array.flags.num & IN_LAYOUT != IN_LAYOUT:
            return False
    return True


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
    if wholes:
        H, source = wholes[0]
    else:
        check_axes("b", biases["b"], f"({cell.columns},)")
        H, source = biases["b"].size // len(cell.gates), "b"
    batches = [shape[0] for shape in given_shapes if shape is not None and len(shape) == 2]
    if is_step:
        rows = {count for count in (x.shape[0] if x.ndim == 2 else 1, *batches) if count != 1}
        N = x.shape[0] if x.ndim == 2 and x.shape[0] != 1 else rows.pop() if len(rows) == 1 else 1
    else:
        N = x.shape[0]
    D = x.shape[-1]
    whole_states = []
    for name, state in zip(names, raw, strict=True):
        if state is None:
            whole_states.append(np.zeros((N, H), dtype))
            continue
        if state.ndim > 2:
            check_axes(name, state, "(N, H)")
        if state.shape not in ((), (H,), (1, H), (N, H)):
            match = "`x`" if name == state_name else f"`x` and `{state_name}`"
            check_shape(name, state, "(N, H)", (N, H), match, " It may also be (1, H), (H,) or a number, for all rows.")
        whole = state if state.shape == (N, H) else np.broadcast_to(state, (N, H))
        whole_states.append(np.require(whole, dtype, ["C", "A"]))
    check_weights(cell, Wx, Wh, biases, D, H, source)
    shapes: tuple[tuple[int, ...] | None, ...] | None = (x.shape, *given_shapes)
    if all(shape == (N, H) for shape in given_shapes) and x.ndim == (2 if is_step else 3) and x.shape[0] == N:
        shapes = None
    if is_step:
        x = np.require(np.broadcast_to(x, (N, D)), dtype, ["C", "A"])
    T = 1 if is_step else x.shape[1]
    return Arguments(x, tuple(whole_states), Wx, Wh, tuple(biases.values()), Sizes(N, T, D, H), shapes)


def check_layer(
    cell: Cell, Wx: Any, Wh: Any, biases: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Check the weights of a layer or of a stream.

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
    check_axes("Wh", Wh, f"(H, {columns})")
    for name, bias in checked_biases.items():
        check_axes(name, bias, f"({columns},)")
    b = checked_biases["b"]
    H = _hidden_units(cell, "b", b)
    transposed = Wx.shape[0] == b.size != Wx.shape[1]
    check_weights(cell, Wx, Wh, checked_biases, Wx.shape[1 if transposed else 0], H, "b", "")
    return Wx, Wh, tuple(checked)


def check_peepholes(cell: Cell, peepholes: Any, cell_clip: Any, Wh: Any) -> np.ndarray | None:
    """Return peepholes and the bound of the cell state as the bias of the cell that is for its row functions.

    None if the weights of the hidden state are no matrix, which another check finds.

    Raises
    ------
    TypeError, ValueError
        If the peepholes do not fit the weights, or the bound is not positive.
    """
    if cell_clip is None:
        cell_clip = math.inf
    if isinstance(cell_clip, bool) or not isinstance(cell_clip, int | float | np.integer | np.floating):
        raise TypeError(f"`cell_clip` must be a number; got {type(cell_clip).__name__}.")
    if not cell_clip > 0:
        raise ValueError(f"`cell_clip` must be positive, the largest magnitude of a cell state; got {cell_clip}.")
    Wh = check_given_float("Wh", Wh)
    if Wh.ndim != 2:
        return None
    H, seen = len(Wh), len(cell.gates) - 1
    if peepholes is None:
        peepholes = np.zeros((seen, H), Wh.dtype)
    peepholes = check_given_float("peepholes", peepholes)
    check_shape("peepholes", peepholes, f"({seen}, H)", (seen, H), "`Wh`")
    return np.concatenate([peepholes.reshape(-1), np.full(H, cell_clip, peepholes.dtype)])


def _hidden_units(cell: Cell, name: str, b: np.ndarray) -> int:
    """How many a bias is for."""
    gates = len(cell.gates)
    if b.size % gates != 0:
        raise ValueError(f"`{name}` must have shape ({cell.columns},), a multiple of {gates} elements; got {b.shape}.")
    return b.size // gates


def check_states(
    names: tuple[str, ...], states: tuple[Any, ...], batch_size: Any, H: int, dtype: np.dtype
) -> tuple[list[np.ndarray | None], int]:
    """Check the states of a stream, and find out how many sequences it has; None stays None.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit.
    """
    given = [
        None if state is None else check_given_float(name, state) for name, state in zip(names, states, strict=True)
    ]
    rows = next(
        ((name, state) for name, state in zip(names, given, strict=True) if state is not None and state.ndim == 2), None
    )
    source, N = "the default of `batch_size`", 1
    if batch_size is not None:
        source, N = "`batch_size`", check_count("batch_size", batch_size, 0)
    elif rows is not None:
        source, N = f"`{rows[0]}`", rows[1].shape[0]
    checked: list[np.ndarray | None] = []
    for name, state in zip(names, given, strict=True):
        if state is not None and state.shape not in ((), (H,), (1, H)):
            check_axes(name, state, "(N, H)")
            check_shape(name, state, "(N, H)", (N, H), f"{source} and `b`")
        checked.append(None if state is None else state.astype(dtype, copy=False))
    return checked, N


def check_rows(rows: Any, N: int) -> np.ndarray:
    """Return a mask of sequences; all if `rows` is None.

    Raises
    ------
    TypeError, ValueError
        If it is not of booleans, or its shape does not fit.
    """
    if rows is None:
        return np.ones(N, np.bool_)
    mask = np.asarray(rows)
    if mask.dtype != np.bool_:
        raise TypeError(f"`rows` must be of booleans, one for each sequence; got {mask.dtype}.")
    check_shape("rows", mask, "(N,)", (N,), "the stream")
    return mask


def check_lengths(lengths: Any, N: int) -> np.ndarray:
    """Return the numbers of valid steps of N sequences as an array of int64; who uses it looks at their range.

    Raises
    ------
    TypeError, ValueError
        If they are no integers, or not one for each sequence.
    """
    if type(lengths) is np.ndarray and lengths.dtype is INT64 and lengths.shape == (N,) and _is_in_layout(lengths):
        return lengths
    array = _as_array("lengths", lengths)
    if array.dtype.kind not in "iu" and array.size > 0:
        raise TypeError(f"`lengths` must be of integers, the valid steps of each sequence; got {array.dtype}.")
    check_shape("lengths", array, "(N,)", (N,), "`x`")
    return np.require(array, INT64, ["C", "A"])


def refuse_lengths(lengths: Any, T: int) -> NoReturn:
    """Say which number of valid steps is out of range.

    Raises
    ------
    ValueError
        Always.
    """
    array = np.asarray(lengths)
    n = int(np.argmax((array < 0) | (array > T)))
    raise ValueError(f"`lengths[{n}]` = {array[n]} is outside 0 <= length <= T = {T}, the steps of `x`.")


def check_resets(resets: Any, N: int, T: int) -> np.ndarray:
    """Return a mask of the steps at which sequences begin anew.

    Raises
    ------
    TypeError, ValueError
        If it is not of booleans, or its shape does not fit.
    """
    mask = _as_array("resets", resets)
    if mask.dtype != np.bool_:
        raise TypeError(
            f"`resets` must be of booleans, true where a sequence begins anew; got {mask.dtype}. "
            "For numbers 0 and 1 pass `resets != 0`."
        )
    check_shape("resets", mask, "(N, T)", (N, T), "`x`")
    return np.ascontiguousarray(mask)


def check_for_stream(name: str, value: Any, symbols: str, shape: tuple[int | None, ...], dtype: np.dtype) -> np.ndarray:
    """Bring an argument to the dtype of a stream and to the layout of the kernels; None in `shape` fits any length.

    Raises
    ------
    TypeError, ValueError
        If its dtype or shape does not fit.
    """
    (array,) = check_floats(name, value)
    is_single = shape[0] == 1 and array.ndim == len(shape) - 1
    check_axes(name, array, symbols, f" Pass `{name}[np.newaxis]`, a batch of one." if is_single else "")
    wanted = tuple(came if length is None else length for length, came in zip(shape, array.shape, strict=True))
    check_shape(name, array, symbols, wanted, "the stream")
    return array.astype(dtype, copy=False)


def check_out(out: Any, symbols: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Reject an array that a result cannot be written to.

    Raises
    ------
    TypeError, ValueError
        If it is not a plain array of this dtype, or its shape or layout does not fit.
    """
    if type(out) is not np.ndarray or out.dtype != dtype:
        got = f"an array of {out.dtype}" if type(out) is np.ndarray else type(out).__name__
        raise TypeError(f"`out` must be a NumPy array of {dtype}, the dtype of the stream; got {got}.")
    check_shape("out", out, symbols, shape, "the stream")
    if not out.flags.carray:
        raise ValueError("`out` must be writable, C-contiguous and aligned, since results are written straight to it.")


def check_cache(cache: Any, kind: type[CacheT], forward: str) -> CacheT:
    """Reject what is not a cache of the right forward function.

    Raises
    ------
    TypeError
        If it is None or of another type.
    """
    if isinstance(cache, kind):
        return cache
    if cache is None:
        raise TypeError(f"`cache` is None: call {forward} with keep_cache=True to be able to go backward.")
    raise TypeError(f"`cache` must be the {kind.__name__} that {forward} returned; got {type(cache).__name__}.")


def check_cell_cache(
    cell: Cell, cache: Any, kind: type[CacheT], forward: str, lanes: Mapping[Any, int]
) -> tuple[CacheT, Sizes]:
    """Reject a cache whose arrays do not fit each other; kernels would read beyond them.

    Returns it, and the sizes of its batch as the kernels see it.

    Raises
    ------
    TypeError, ValueError
        If it is of another type, or an array has another dtype, shape or layout than when it was made.
    """
    cache = check_cache(cache, kind, forward)
    x, h0, Wx, Wh, tape, track = cache
    dtype = x.dtype if type(x) is np.ndarray else None
    if is_plain(dtype, cache) and x.ndim in (2, 3) and h0.ndim == 2:
        N, D, H = x.shape[0], x.shape[-1], h0.shape[1]
        T = x.shape[1] if x.ndim == 3 else 1
        spans, S, steps, checkpoints = cache.spans, N, T, cache.checkpoints
        are_spans = spans is None or are_spans_of(spans, N, T)
        if spans is not None and are_spans:
            S, steps = spans.table.shape[1], spans.longest
        columns, units = len(cell.gates) * H, -(-H // lanes[dtype]) * lanes[dtype]
        if (
            are_spans
            and h0.shape[0] == N
            and Wx.shape == (D, columns)
            and Wh.shape == (H, columns)
            and tape.shape == (0 if checkpoints else steps, S, len(cell.tape) * units)
            and track.shape == (1 if checkpoints else steps + 1, S, units)
            and (checkpoints is None or _are_checkpoints_of(checkpoints, cell, steps, (S, H), dtype))
            and (not cell.own or _is_bias(cache.own, columns, dtype))
        ):
            return cache, Sizes(S, steps, D, H)
    came = ", ".join(
        f"{name}: {_kind_of(array)}"
        for name, array in zip(("x", "h0", "Wx", "Wh", "tape", "track"), cache, strict=True)
    )
    raise ValueError(
        f"`cache` must be as {forward} left it, with arrays of one float dtype, C-contiguous, that fit one another; "
        f"got {came}. Call {forward} again; to keep a cache elsewhere, pickle it."
    )


def _is_in_layout(array: Any) -> bool:
    return type(array) is np.ndarray and array.flags.num & IN_LAYOUT == IN_LAYOUT


def _is_bias(array: Any, columns: int, dtype: Any) -> bool:
    return _is_in_layout(array) and array.shape == (columns,) and array.dtype == dtype


SPAN_FIELDS = "table", "onward", "shape", "steps", "longest", "shortest", "in_order"


def are_spans_of(spans: Any, N: int, T: int) -> bool:
    """Whether spans stay within the rows of N sequences of T steps, longer ones first."""
    if getattr(spans, "_fields", None) != SPAN_FIELDS:
        return False
    table, onward, shape, steps, longest, _, in_order = spans
    return bool(
        shape == (N, T)
        and type(onward) is type(longest) is int
        and onward in (1, -1)
        and _is_in_layout(table)
        and table.dtype == INT64
        and table.ndim == 2
        and len(table) == span_kernels.ROWS
        and span_kernels.CHECK[INT64](table, onward, N, T, longest, bool(in_order)) == steps
    )


def _are_checkpoints_of(checkpoints: Any, cell: Cell, steps: int, shape: tuple[int, int], dtype: Any) -> bool:
    """Whether there are states of all sequences before each block, and the blocks make up all steps."""
    if not {"borders", "states", "biases"} <= set(getattr(checkpoints, "_fields", ())):
        return False
    borders, states, biases = checkpoints
    arrays = [*biases, *(state for block in states for state in block)]
    return (
        len(borders) == len(states) + 1
        and list(borders) == sorted(set(borders))
        and borders[0] == 0
        and borders[-1] == steps
        and is_plain(dtype, arrays)
        and all(len(block) == len(cell.states) for block in states)
        and all(state.shape == shape for block in states for state in block)
        and [bias.shape for bias in biases] == [(len(cell.gates) * shape[1],)] * len(cell.biases)
    )


def refuse_kept() -> NoReturn:
    """Say why a cache with checkpoints has no gates and states of each step.

    Raises
    ------
    ValueError
        Always.
    """
    raise ValueError(
        "this cache keeps states every so many steps only, and computes the rest again when it goes backward. Call the "
        "forward function without `checkpoint_every` and `memory_budget` to look at all of it."
    )


def check_checkpoints(checkpoint_every: Any, memory_budget: Any, keep_cache: bool) -> tuple[int | None, int | None]:
    """Check what asks for checkpoints.

    Raises
    ------
    TypeError, ValueError
        If it is no positive integer, or both are given, or nothing is to be kept.
    """
    if checkpoint_every is not None and memory_budget is not None:
        raise ValueError("`checkpoint_every` and `memory_budget` exclude one another: give one of them.")
    name = "memory_budget" if checkpoint_every is None else "checkpoint_every"
    if not keep_cache:
        raise ValueError(f"`{name}` is about the cache, and there is none with keep_cache=False: leave it out.")
    if checkpoint_every is None:
        return None, check_count(name, memory_budget)
    return check_count(name, checkpoint_every), None


def refuse_budget(memory_budget: int, least: int) -> NoReturn:
    """Say that a budget of memory is too small.

    Raises
    ------
    ValueError
        Always.
    """
    raise ValueError(
        f"`memory_budget` = {memory_budget} bytes is too little: the cache of these sizes takes {least} at least."
    )


def _kind_of(value: Any) -> str:
    return (
        f"an array of {value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
    )


def check_cache_array(name: str, array: Any, axes: int | None, dtype: np.dtype | None = None) -> None:
    """Reject an array of a cache that is not as the forward function left it: kernels check nothing.

    Without a dtype it must be of float32 or float64. Axes that are None may be any.

    Raises
    ------
    ValueError
        If its dtype, layout or number of axes is another.
    """
    if type(array) is np.ndarray and (array.ndim == axes or axes is None):
        flags = array.flags
        fits = array.dtype in (FLOAT32, FLOAT64) if dtype is None else array.dtype == dtype
        if fits and flags.c_contiguous and flags.aligned:
            return
    got = f"{array.dtype}, {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
    wanted = "" if axes is None else f" with {axes} axes"
    raise ValueError(
        f"`cache.{name}` must be a C-contiguous array of {dtype or 'float32 or float64'}{wanted}; got {got}. "
        "Leave a cache and its arrays as the forward function made them until the backward call."
    )


def check_single_step(T: int, forward: str) -> None:
    """Reject the cache of a sequence of T steps where that of a step is wanted.

    Raises
    ------
    ValueError
        If it is not of one step.
    """
    if T != 1:
        raise ValueError(
            f"`cache` must be that of {forward}, of a single step; got one of T = {T} steps."
            " Go back through a sequence with the backward function of its forward function."
        )


def check_gradient(name: str, value: Any, symbols: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Check a gradient that comes from outside; its dtype is at least that of the cache, `dtype`.

    Raises
    ------
    TypeError, ValueError
        If its dtype or shape does not fit.
    """
    gradient = check_given_gradient(name, value, symbols, shape, dtype)
    return for_kernels(gradient)


def check_given_gradient(name: str, value: Any, symbols: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Do as `check_gradient`, but return the caller's own array where it fits, which may be read-only."""
    gradient = check_given_float(name, value)
    if gradient.shape != shape:
        check_shape(name, gradient, symbols, shape, "the cache")
    return gradient if gradient.dtype is dtype else gradient.astype(np.result_type(gradient, dtype), copy=False)


def check_broadcast(name: str, value: Any, symbols: str, shape: tuple[int, int]) -> np.ndarray:
    """Return a gradient that broadcasts over the batch as what it belongs to did.

    Raises
    ------
    TypeError, ValueError
        If its dtype or shape does not fit.
    """
    array = check_given_float(name, value)
    if array.shape not in ((), shape[1:], (1, *shape[1:]), shape):
        check_shape(name, array, symbols, shape, "the cache")
    return np.require(np.broadcast_to(array, shape), None, ["C", "A"])


def check_dstate(
    states: tuple[str, ...], dstate: Any, shape: tuple[int, int], dtype: np.dtype
) -> list[np.ndarray | None]:
    """Check the gradient of a last state: a tuple of one for each state, or the only one; None is zero.

    Raises
    ------
    TypeError, ValueError
        If there are more or fewer, or a dtype or shape does not fit.
    """
    if dstate is None:
        return [None] * len(states)
    gradients = dstate if isinstance(dstate, tuple) else (dstate,)
    if len(gradients) != len(states):
        names = ", ".join(f"d{state}" for state in states)
        raise ValueError(f"`dstate` must be a tuple ({names}), a gradient of each state; got {len(gradients)} of them.")
    checked: list[np.ndarray | None] = []
    for state, gradient in zip(states, gradients, strict=True):
        if gradient is None:
            checked.append(None)
            continue
        checked.append(check_broadcast(f"dstate.{state}", gradient, "(N, H)", shape).astype(dtype, copy=False))
    return checked


def check_mask(name: str, value: Any) -> np.ndarray:
    """Bring a mask of booleans or real weights to a C-contiguous array of float64.

    Raises
    ------
    TypeError
        If it is of another dtype.
    """
    if type(value) is np.ndarray and value.dtype == np.bool_:
        return value.astype(FLOAT64, "C")
    array = _as_array(name, value)
    if array.dtype.kind not in "biuf" and array.size > 0:
        raise TypeError(f"`{name}` must be of booleans or of real numbers, which are weights; got {array.dtype}.")
    return np.require(array, FLOAT64, ["C", "A"])


def check_float_dtype(name: str, value: Any) -> np.dtype:
    """Return float32 or float64 as a dtype.

    Raises
    ------
    TypeError
        If it is another one.
    """
    dtype = np.dtype(value)
    if dtype not in (FLOAT32, FLOAT64):
        raise TypeError(f"`{name}` must be float32 or float64; got {dtype}.")
    return dtype


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Reject what is not one of some words.

    Raises
    ------
    ValueError
        If it is not.
    """
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return an integer of at least `least`.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is less.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be an integer; got {type(value).__name__}.")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}; got {value}.")
    return int(value)


def check_num_threads(num_threads: Any) -> int:
    """Return a number of threads; raises as `check_count`."""
    return check_count("num_threads", num_threads)


def check_layer_sizes(D: Any, H: Any, dtype: Any) -> tuple[int, int, np.dtype]:
    """Check the sizes and the dtype of a layer that is to be made; raises as `check_count` and `check_float_dtype`."""
    return check_count("D", D, 0), check_count("H", H), check_float_dtype("dtype", dtype)


def check_replacements(parameters: dict[str, np.ndarray], given: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with those that are given in the place of the old ones.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    for name in given:
        if name not in parameters:
            raise ValueError(f"`{name}` is no parameter of this layer; it has {', '.join(parameters)}.")
    return {**parameters, **given}


def refuse_without_compiler() -> NoReturn:
    """Say why nothing can be computed where Numba's compiler is switched off.

    Raises
    ------
    RuntimeError
        Always.
    """
    raise RuntimeError(
        "the kernels of rnnkernels are compiled by Numba, which NUMBA_DISABLE_JIT=1 forbids. Unset it before the first"
        " import of numba, or call the same functions in rnnkernels.reference, which are plain NumPy."
    )


def suffixes(layers: int, directions: int) -> list[str]:
    """What the names of the parameters of each layer and direction end with."""
    numbers = [f"_l{layer}" for layer in range(layers)] if layers > 1 else [""]
    return [number + end for number in numbers for end in ("", "_reverse")[:directions]]


def check_parameters(cell: Cell, parameters: Any) -> tuple[list[dict[str, Any]], int]:
    """Sort parameters by layer and direction; returns Wx, Wh and the biases of each, and the number of directions.

    Raises
    ------
    TypeError, ValueError
        If a name is unknown or missing, or a dtype or a shape does not fit.
    """
    if not isinstance(parameters, Mapping):
        raise TypeError(f"`parameters` must be a dict of arrays by name; got {type(parameters).__name__}.")
    names = "Wx", "Wh", *cell.biases
    rule = f"{', '.join(names)}, then _l0, _l1, ... where there are more layers, then _reverse in the second direction"
    pattern = re.compile(rf"({'|'.join(names)})(?:_l(0|[1-9][0-9]*))?(_reverse)?")
    found = [pattern.fullmatch(name) if isinstance(name, str) else None for name in parameters]
    for name, match in zip(parameters, found, strict=True):
        if match is None:
            raise ValueError(f"`{name}` in `parameters` is no name of a parameter: these are {rule}.")
    layers = len({match[2] for match in found if match and match[2]}) or 1
    directions = 2 if any(match and match[3] for match in found) else 1
    ends = suffixes(layers, directions)
    for name in [name + end for end in ends for name in names[:3]]:
        if name not in parameters:
            raise ValueError(f"`parameters` lacks `{name}`: it has {', '.join(parameters)}. The names are {rule}.")
    for name in parameters:
        if not any(name == plain + end for end in ends for plain in names):
            raise ValueError(f"`{name}` in `parameters` is of another layer than the others. The names are {rule}.")
    others = [bias + end for bias in cell.biases[1:] for end in ends]
    given = {name: array for name, array in parameters.items() if array is not None or name not in others}
    given = dict(zip(given, check_given_floats(" ".join(given), *given.values()), strict=True))
    columns = cell.columns
    for name, array in given.items():
        letter = "D" if name.startswith("Wx") else "H"
        of_bias = f"({len(cell.gates) - 1}, H)" if name.startswith("peepholes") else f"({columns},)"
        check_axes(name, array, f"({letter}, {columns})" if name.startswith("W") else of_bias)
    b = given[f"b{ends[0]}"]
    H, source = _hidden_units(cell, f"b{ends[0]}", b), f"`b{ends[0]}`"
    parts = []
    for k, end in enumerate(ends):
        depth, letter = (given[f"Wx{ends[0]}"].shape[0], "D") if k < directions else (directions * H, "H")
        letter = "2H" if k >= directions == 2 else letter
        check_shape(f"Wx{end}", given[f"Wx{end}"], f"({letter}, {columns})", (depth, b.size), source)
        check_shape(f"Wh{end}", given[f"Wh{end}"], f"(H, {columns})", (H, b.size), source)
        biases = {name: given.get(name + end) for name in cell.biases}
        for name, bias in biases.items():
            if bias is not None and name == "peepholes":
                check_shape(name + end, bias, f"({len(cell.gates) - 1}, H)", (len(cell.gates) - 1, H), source)
            elif bias is not None:
                check_shape(name + end, bias, f"({columns},)", b.shape, source)
        parts.append({"Wx": given[f"Wx{end}"], "Wh": given[f"Wh{end}"], **biases})
    return parts, directions


def check_dropout(dropout: Any, layers: int) -> float:
    """Return the probability of dropping an output.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is not in 0 <= dropout < 1, or there is nothing to drop.
    """
    if isinstance(dropout, bool) or not isinstance(dropout, int | float | np.integer | np.floating):
        raise TypeError(f"`dropout` must be a number; got {type(dropout).__name__}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be in 0 <= dropout < 1, a probability; got {dropout}.")
    if dropout > 0 and layers == 1:
        raise ValueError("`dropout` acts between layers, so it must be 0 with num_layers = 1.")
    return float(dropout)


def check_rng(rng: Any) -> None:
    """Reject what is not a generator of random numbers, or None.

    Raises
    ------
    TypeError
        If it is not.
    """
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"`rng` must be a numpy.random.Generator, as numpy.random.default_rng makes; got {type(rng).__name__}."
        )


def check_one_direction(directions: int, what: str) -> None:
    """Reject layers that run backward, too, for what takes steps as they come.

    Raises
    ------
    ValueError
        If there are two directions.
    """
    if directions == 2:
        raise ValueError(
            f"`{what}` needs a layer of one direction: the second direction of a bidirectional one begins at the last "
            "step, which is not there yet. Call `forward` with whole sequences, or make it with bidirectional=False."
        )


def check_absent(name: str, value: Any, reason: str) -> None:
    """Reject an argument that means nothing here.

    Raises
    ------
    TypeError
        If it is not None.
    """
    if value is not None:
        raise TypeError(f"`{name}` must be left out: {reason}.")


def _broadcast_whole(name: str, value: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """A state of a stack, or its gradient, for all layers and directions; raises TypeError, ValueError."""
    array = check_given_float(name, value)
    if array.ndim <= 3 and all(n in (1, m) for n, m in zip(array.shape[::-1], shape[::-1], strict=False)):
        return np.broadcast_to(array, shape)
    check_shape(
        name, array, "(K, N, H)", shape, "the layers and `x`", " K counts layers and directions; it may also broadcast."
    )
    return array


def check_stack_state(
    name: str, state: Any, shape: tuple[int, int, int]
) -> tuple[tuple[int, ...] | None, np.ndarray | None]:
    """Return the shape of a first state of a stack, and the state of shape (K, N, H); None is zero.

    Raises
    ------
    TypeError, ValueError
        If its dtype is none, or it does not broadcast to the shape.
    """
    return (None, None) if state is None else (np.shape(state), _broadcast_whole(name, state, shape))


def check_stack_dstate(states: tuple[str, ...], dstate: Any, shape: tuple[int, int, int]) -> list[np.ndarray | None]:
    """Check the gradient of the last state of a stack, as `check_dstate` does that of a layer."""
    gradients = check_state_tuple("dstate", "d", states, dstate)
    return [
        None if gradient is None else _broadcast_whole(f"dstate.{state}", gradient, shape)
        for state, gradient in zip(states, gradients, strict=True)
    ]


def check_state_tuple(name: str, prefix: str, states: tuple[str, ...], value: Any) -> tuple[Any, ...]:
    """Return a state as a tuple; None is zero, and whatever is no tuple the only one.

    Raises
    ------
    ValueError
        If there are more or fewer than the cell has.
    """
    if value is None:
        return (None,) * len(states)
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) != len(states):
        names = ", ".join(prefix + state for state in states)
        raise ValueError(f"`{name}` must be a tuple ({names}); got {len(parts)} of them.")
    return parts


def check_step_state(states: tuple[str, ...], state: Any, count: int) -> list[np.ndarray | None]:
    """Check the state of a stack before a step: arrays with an axis for its layers in front.

    Raises
    ------
    TypeError, ValueError
        If there are more or fewer than the cell has, or a dtype or a shape does not fit.
    """
    checked: list[np.ndarray | None] = []
    for name, value in zip(states, check_state_tuple("state", "", states, state), strict=True):
        array = None if value is None else check_given_float(f"state.{name}", value)
        if array is not None and array.ndim == 0:
            array = np.broadcast_to(array, (count,))
        if array is not None and (
            array.ndim not in (1, 2, 3) or array.shape[0] != count or array.ndim == 1 < array.size
        ):
            check_shape(f"state.{name}", array, "(num_layers, N, H)", (count, *array.shape[1:]), "the layers")
        checked.append(array)
    return checked


def check_stream_states(
    states: dict[str, Any], batch_size: Any, count: int, H: int
) -> tuple[list[tuple[str, np.ndarray | None]], int]:
    """Check the states of a stream of a stack, and find out how many sequences it has; None stays None.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit.
    """
    given = {name: None if state is None else check_given_float(name, state) for name, state in states.items()}
    N = 1
    if batch_size is not None:
        N = check_count("batch_size", batch_size, 0)
    else:
        N = next((state.shape[-2] for state in given.values() if state is not None and state.ndim >= 2), 1)
    shape = count, N, H
    return [(name, None if state is None else _broadcast_whole(name, state, shape)) for name, state in given.items()], N


def check_stack_cache(
    cell: Cell, cache: Any, kind: type[CacheT], part: type[Any], layers: int, directions: int, lanes: Mapping[Any, int]
) -> tuple[CacheT, Sizes]:
    """Reject a cache that no stack like this one has left. Returns it and the sizes of its first layer.

    Raises
    ------
    TypeError, ValueError
        If it is of another type, of other layers, or its arrays do not fit one another.
    """
    whole: Any = check_cache(cache, kind, "forward")
    parts, masks = whole.parts, whole.masks
    if not (
        isinstance(parts, tuple)
        and isinstance(masks, tuple)
        and all(isinstance(each, part) for each in parts)
        and (len(parts), whole.directions, len(masks)) == (layers * directions, directions, layers - 1)
    ):
        raise ValueError(
            f"`cache` must be as `forward` of this layer leaves it, of num_layers = {layers} in {directions} "
            f"direction(s), with a {part.__name__} for each; it is of other layers, or was changed."
        )
    for each in parts:
        check_cell_cache(cell, each, part, "forward", lanes)
    shapes = [each.x.shape if each.x.ndim == 3 else (len(each.x), 1, each.x.shape[1]) for each in parts]
    sizes = [Sizes(shape[0], shape[1], shape[2], each.h0.shape[1]) for shape, each in zip(shapes, parts, strict=True)]
    N, T, D, H = sizes[0]
    wanted = [Sizes(N, T, D if k < directions else directions * H, H) for k in range(len(parts))]
    fit = all(
        mask is None
        or (
            type(mask) is np.ndarray
            and mask.dtype == np.bool_
            and mask.shape in ((N, n, directions * H) for n in (1, T))
        )
        for mask in masks
    )
    if sizes != wanted or not fit or len({each.x.dtype for each in parts}) > 1:
        raise ValueError(
            "`cache` must be as `forward` left it, with parts and masks that fit one another. Call `forward` again; "
            "to keep a cache elsewhere, pickle it."
        )
    return whole, sizes[0]


def import_extra(module: str, extra: str) -> Any:
    """Import a module that not every installation has.

    Raises
    ------
    ModuleNotFoundError
        If it is not there; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'this needs {error.name}, which is not installed: python -m pip install "rnnkernels[{extra}]"',
            name=error.name,
        ) from None


def refuse_file(path: Any, reason: object) -> NoReturn:
    """Say why a file cannot be loaded.

    Raises
    ------
    ValueError
        Always.
    """
    raise ValueError(f"`path` must name a safetensors file that a layer of this class has saved; {path}: {reason}")


def check_series(series: Any, dtype: Any, batch_size: int, horizon: int) -> tuple[Any, np.dtype]:
    """Check a series (T, D) that is to be read in parts; returns it, never a copy of an array, and a dtype for these.

    What has a NumPy dtype is left as it is: it may be a file.

    Raises
    ------
    TypeError
        If it is not of real numbers, or needs a dtype, or `dtype` is not one of the two.
    ValueError
        If it has other axes, or too few steps for one input and its target in each stream.
    """
    if not isinstance(getattr(series, "dtype", None), np.dtype):
        series = _as_array("series", series)
    found = series.dtype.newbyteorder("=")
    if dtype is not None:
        dtype = check_float_dtype("dtype", dtype)
    elif found.kind in "iu":
        dtype = FLOAT64
    elif found in (FLOAT32, FLOAT64):
        dtype = found
    if dtype is None or found.kind not in "iuf":
        cure = " Name one of the two for its windows, as in `dtype=np.float32`." if found.kind == "f" else ""
        raise TypeError(f"`series` must be of float32 or float64, or of integers; got {series.dtype}.{cure}")
    one_column = " A single column is `series[:, np.newaxis]`." if series.ndim == 1 else ""
    check_axes("series", series, "(T, D)", one_column)
    if (T := series.shape[0]) < batch_size + horizon:
        raise ValueError(
            f"`series` must have T >= batch_size + horizon = {batch_size + horizon} steps, for an input and its target "
            f"in each stream; got T = {T}."
        )
    return series, dtype


def check_max_norm(max_norm: Any) -> float:
    """Return a limit of a norm.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is negative or NaN.
    """
    if isinstance(max_norm, bool) or not isinstance(max_norm, int | float | np.integer | np.floating):
        raise TypeError(f"`max_norm` must be a number; got {type(max_norm).__name__}.")
    if not max_norm >= 0:
        raise ValueError(f"`max_norm` must be at least 0; got {max_norm}.")
    return float(max_norm)


def check_gradients(gradients: Any) -> list[np.ndarray]:
    """Return the arrays of a dict of gradients that are to be changed in place.

    Raises
    ------
    TypeError
        If it is no dict, or a value is no array of float32 or float64.
    ValueError
        If an array is read-only.
    """
    if not isinstance(gradients, Mapping):
        raise TypeError(f"`gradients` must be a dict of arrays by name; got {type(gradients).__name__}.")
    for name, array in gradients.items():
        if not isinstance(array, np.ndarray) or array.dtype not in (FLOAT32, FLOAT64):
            raise TypeError(f"`gradients[{name!r}]` must be an array of float32 or float64; got {_type_of(array)}.")
        if not array.flags.writeable:
            raise ValueError(f"`gradients[{name!r}]` must be writable, since it is scaled in place; take a copy of it.")
    return list(gradients.values())


def _type_of(value: Any) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def check_affine(x: Any, w: Any, b: Any) -> list[np.ndarray]:
    """Check the arguments of an affine layer over sequences; returns them as `check_given_floats` does.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit.
    """
    arrays = x, w, b = check_given_floats("x w b", x, w, b)
    if x.ndim != 3 or b.ndim != 1:
        check_axes("x", x, "(N, T, D)")
        check_axes("b", b, "(M,)")
    shape = x.shape[2], b.shape[0]
    if w.shape != shape:
        check_shape("w", w, "(D, M)", shape, "`x` and `b`")
    return arrays


def check_labels(y: Any, mask: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and the weights of their steps, (N, T) = `shape`; raises as `check_indices` and `check_mask`.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    mask = check_mask("mask", mask)
    y = check_indices("y", y, mask)
    if y.shape != shape or mask.shape != shape:
        check_shape("y", y, "(N, T)", shape, "`x`")
        check_shape("mask", mask, "(N, T)", shape, "`x`")
    return y, mask


CONVERTIBLE: dict[str, dict[str, tuple[Any, ...]]] = {
    "torch": {"mode": ("LSTM", "GRU", "RNN_TANH", "RNN_RELU"), "nonlinearity": ("tanh", "relu"), "proj_size": (0,)},
    "keras": {
        "activation": ("tanh",),
        "recurrent_activation": ("sigmoid",),
        "go_backwards": (False,),
        "merge_mode": ("concat",),
    },
    "onnx": {
        "activations": (["Tanh"], ["Relu"], ["Sigmoid", "Tanh"], ["Sigmoid", "Tanh", "Tanh"]),
        "activation_alpha": ([],),
        "activation_beta": ([],),
        "clip": (0.0,),
        "input_forget": (0, 1),
    },
}
"""What attributes of recurrent layers from elsewhere may be, of those that change what a layer computes."""


def check_convertible(source: str, owner: str, attributes: Mapping[str, Any]) -> None:
    """Reject a layer from elsewhere that computes what no cell here does; attributes that it does not have are fine.

    Raises
    ------
    ValueError
        If an attribute has a value that is not in `CONVERTIBLE`; the message names it.
    """
    for name, allowed in CONVERTIBLE[source].items():
        if name in attributes and attributes[name] not in allowed:
            raise ValueError(
                f"`{name}` of {owner} must be {' or '.join(map(repr, allowed))}, since no cell of this package computes"
                f" anything else; got {attributes[name]!r}."
            )


def check_no_weight(owner: str, name: str, value: Any, purpose: str) -> None:
    """Reject a weight from elsewhere that no cell here has, unless it is None or zero.

    Raises
    ------
    ValueError
        If it is there.
    """
    if value is not None and np.any(value):
        raise ValueError(f"`{name}` of {owner} must not be there: {purpose}, which no cell of this package has.")


def check_plain_cell(owner: str, own: int) -> None:
    """Reject a layer with peepholes, coupled gates or a clip where others have no place for them.

    Raises
    ------
    ValueError
        If it is one.
    """
    if own:
        raise ValueError(f"The {owner} must have neither peepholes nor coupled gates nor a clip to be converted.")


def check_kind(owner: str, kind: str, known: Iterable[str]) -> str:
    """Return the name of a class or operator from elsewhere.

    Raises
    ------
    ValueError
        If it is not one of those that are known.
    """
    if kind not in known:
        raise ValueError(f"{owner} must be one of {', '.join(known)}; got {kind}.")
    return kind


def check_gates(name: str, Wh: np.ndarray, counts: Iterable[int]) -> int:
    """Return how many gates weights (H, GH) of a hidden state have, which tells the cell.

    Raises
    ------
    ValueError
        If the shape is another one.
    """
    if Wh.ndim == 2 and Wh.size > 0 and Wh.shape[1] in [len(Wh) * count for count in counts]:
        return Wh.shape[1] // len(Wh)
    raise ValueError(
        f"`{name}` must have shape (H, GH), where G is {' or '.join(map(str, counts))}, the number of gates; got"
        f" {Wh.shape}."
    )


def check_found(owner: str, names: Iterable[str], found: Iterable[str], cure: str = "") -> None:
    """Reject what lacks some of its parts.

    Raises
    ------
    ValueError
        If one of `names` is not among `found`; with `cure`.
    """
    found = list(found)
    missing = [name for name in names if name not in found]
    if missing:
        has = ", ".join(found[:12]) + (", ..." if len(found) > 12 else "") if found else "nothing"
        raise ValueError(f"{owner} must have {', '.join(missing)}; it has {has}.{cure}")


def check_known(owner: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Reject names that nobody knows.

    Raises
    ------
    ValueError
        If one of `names` is not among `known`.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{owner} must be of {', '.join(known) or 'nothing'}; got `{name}`.")


def check_number(owner: str, count: int, allowed: Iterable[int], cure: str) -> None:
    """Reject a number of things that is not one of those allowed.

    Raises
    ------
    ValueError
        If it is not; with `cure`.
    """
    if count not in allowed:
        raise ValueError(f"{owner} must be {' or '.join(map(str, allowed))}; got {count}. {cure}")


def check_same(name: str, value: Any, wanted: Any) -> None:
    """Reject an argument that says something else than the layer it comes with; None says nothing.

    Raises
    ------
    ValueError
        If it does.
    """
    if value is not None and value != wanted:
        raise ValueError(f"`{name}` must be {wanted!r}, as it is of the layer; got {value!r}.")


def check_reset_after(owner: str, reset_after: bool) -> None:
    """Reject a GRU whose reset gate acts before the product where there is no such thing.

    Raises
    ------
    ValueError
        If it does.
    """
    if not reset_after:
        raise ValueError(f"`reset_after` must be True: {owner} has no GRU whose reset gate acts before the product.")


def check_array(name: str, value: Any, axes: int | tuple[int, ...]) -> np.ndarray:
    """Return weights from elsewhere as an array: a tensor, an array, or a list, also of half precision.

    Raises
    ------
    TypeError
        If it is not of floating-point numbers.
    ValueError
        If it has another number of axes.
    """
    if hasattr(value, "detach"):  # a tensor of PyTorch
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
    array = np.asarray(value)
    if array.dtype.name in ("float16", "bfloat16"):
        array = array.astype(FLOAT32)
    if array.dtype not in (FLOAT32, FLOAT64):
        raise TypeError(f"`{name}` must be of floating-point numbers; got {array.dtype}.")
    wanted = (axes,) if isinstance(axes, int) else axes
    if array.ndim not in wanted:
        raise ValueError(f"`{name}` must have {' or '.join(map(str, wanted))} axes; got shape {array.shape}.")
    return array


def check_operators(nodes: Iterable[Any]) -> None:
    """Reject nodes of an ONNX model, if there are any.

    Raises
    ------
    ValueError
        With their names.
    """
    listed = [str(node) for node in nodes]
    if listed:
        more = f", and {len(listed) - 8} more" if len(listed) > 8 else ""
        raise ValueError(
            f"the model has nodes that cannot run here: {', '.join(listed[:8])}{more}. `help(rnnkernels.onnx.load)`"
            " lists what can; `rnnkernels.convert.from_onnx` takes a recurrent node out of any model."
        )


def check_model_input(name: str, value: Any, dtype: np.dtype, shape: tuple[int | str, ...] | None) -> np.ndarray:
    """Bring an input of a model to its dtype; strings and None in `shape` fit anything.

    Raises
    ------
    TypeError, ValueError
        If its dtype or shape does not fit.
    """
    array = _as_array(name, value)
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise TypeError(f"`{name}` must be of {dtype}; got {array.dtype}.")
    if shape is not None:
        check_axes(name, array, f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})")
        symbols = f"({', '.join(map(str, shape))})"
        wanted = tuple(came if isinstance(axis, str) else axis for axis, came in zip(shape, array.shape, strict=True))
        check_shape(name, array, symbols, wanted, "the model")
    return array.astype(dtype, copy=False)


jit.refuse = refuse_without_compiler
