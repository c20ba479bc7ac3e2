"""Every check and every error message of the package.

The messages name the argument, the rule in symbols and in numbers, what came, and the cure where it is known. The
functions return what the kernels need: arrays of one float dtype, C-contiguous and aligned, without a copy where the
argument is so already.
"""

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from rnnkernels.kernels import jit

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
INTP = np.dtype(np.intp)

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


def check_weights(
    Wx: np.ndarray, Wh: np.ndarray, b: np.ndarray, D: int, H: int, gates: int, state: str, x: str = "`x` and "
) -> None:
    """Reject weights that do not fit D inputs and H hidden units, which come from `x` and from the argument `state`.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    columns = "H" if gates == 1 else f"{gates}H"
    cure = ""
    if gates == 4 and (Wx.shape == (4 * H, D) != (D, 4 * H) or Wh.shape == (4 * H, H)):
        cure = (
            " Gate blocks are columns here, in the order i, f, o, g: take the transpose of a PyTorch weight, and"
            " exchange its last two blocks."
        )
    check_shape("Wx", Wx, f"(D, {columns})", (D, gates * H), f"{x}`{state}`", cure)
    check_shape("Wh", Wh, f"(H, {columns})", (H, gates * H), f"`{state}`", cure)
    check_shape("b", b, f"({columns},)", (gates * H,), f"`{state}`")


def check_sequence(
    x: Any, h0: Any, Wx: Any, Wh: Any, b: Any, gates: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, Sizes]:
    """Check the arguments of a forward pass over sequences.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit.
    """
    x, h0, Wx, Wh, b = check_floats("x h0 Wx Wh b", x, h0, Wx, Wh, b)
    check_axes("x", x, "(N, T, D)")
    check_axes("h0", h0, "(N, H)")
    (N, T, D), H = x.shape, h0.shape[1]
    sizes = Sizes(N, T, D, H)
    check_shape("h0", h0, "(N, H)", (sizes.N, sizes.H), "`x`")
    check_weights(Wx, Wh, b, sizes.D, sizes.H, gates, "h0")
    return x, h0, Wx, Wh, b, sizes


def check_step(
    x: Any, states: tuple[Any, ...], names: str, Wx: Any, Wh: Any, b: Any, gates: int
) -> tuple[np.ndarray, tuple[np.ndarray, ...], np.ndarray, np.ndarray, np.ndarray, Sizes]:
    """Check the arguments of a forward step; `x` comes back as sequences of one step.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit.
    """
    x, *checked, Wx, Wh, b = check_floats(f"x {names} Wx Wh b", x, *states, Wx, Wh, b)
    state_names = names.split()
    check_axes("x", x, "(N, D)")
    check_axes(state_names[0], checked[0], "(N, H)")
    sizes = Sizes(x.shape[0], 1, x.shape[1], checked[0].shape[1])
    for name, state in zip(state_names, checked, strict=True):
        check_shape(name, state, "(N, H)", (sizes.N, sizes.H), "`x`" if name == state_names[0] else "`prev_h`")
    check_weights(Wx, Wh, b, sizes.D, sizes.H, gates, state_names[0])
    return x.reshape(sizes.N, 1, sizes.D), tuple(checked), Wx, Wh, b, sizes


def check_stream(
    Wx: Any, Wh: Any, b: Any, states: dict[str, Any], batch_size: Any, gates: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray], Sizes]:
    """Check the arguments that make a stream; states that are None do not come back.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit.
    """
    given = {name: state for name, state in states.items() if state is not None}
    Wx, Wh, b, *checked = check_floats(" ".join(["Wx", "Wh", "b", *given]), Wx, Wh, b, *given.values())
    columns = "H" if gates == 1 else f"{gates}H"
    check_axes("Wx", Wx, f"(D, {columns})")
    check_axes("Wh", Wh, f"(H, {columns})")
    check_axes("b", b, f"({columns},)")
    if b.size % gates != 0:
        raise ValueError(f"`b` must have shape ({columns},), a multiple of {gates} elements; got {b.shape}.")
    transposed = Wx.shape[0] == b.size != Wx.shape[1]
    D, H = Wx.shape[1 if transposed else 0], b.size // gates
    check_weights(Wx, Wh, b, D, H, gates, "b", "")
    source, N = "the default of `batch_size`", 1
    if batch_size is not None:
        source, N = "`batch_size`", check_count("batch_size", batch_size, 0)
    elif given:
        source, N = f"`{next(iter(given))}`", checked[0].shape[0] if checked[0].ndim == 2 else 1
    for name, state in zip(given, checked, strict=True):
        check_axes(name, state, "(N, H)")
        check_shape(name, state, "(N, H)", (N, H), f"{source} and `b`")
    return Wx, Wh, b, dict(zip(given, checked, strict=True)), Sizes(N, 1, D, H)


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


def check_single_step(x: np.ndarray, forward: str) -> None:
    """Reject the cache of a sequence where that of a step is wanted, by its inputs `x` (N, T, D).

    Raises
    ------
    ValueError
        If it is not of one step.
    """
    if x.shape[1] != 1:
        raise ValueError(
            f"`cache` must be that of {forward}, of a single step; got one of T = {x.shape[1]} steps."
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


jit.refuse = refuse_without_compiler
