"""What `rnnkernels.nopython` has: the only compiled functions that users call, so they check what they are passed."""

from collections import namedtuple
from functools import cache

from numba import types
from numba.core.errors import TypingError
from numba.extending import overload
from numba.np.numpy_support import as_dtype

from rnnkernels.kernels import gru, lstm, rnn  # noqa: F401 - they register their cells
from rnnkernels.kernels.cell import cells
from rnnkernels.kernels.jit import OPTIONS, kernel
from rnnkernels.kernels.passes import packed_regions, stream_counts, stream_regions
from rnnkernels.kernels.simd import LANES

_keys: dict[type, str] = {}


@cache
def stream_class(key):
    """The class of what `nopython` of a stream of a cell returns: tuples by whose type Numba knows the cell."""
    made = namedtuple(f"{key}_stream", "weights memory N D H P", module=__name__)
    _keys[made] = key
    return made


for _key in cells:  # Numba's index of machine code on disk finds classes by their names
    globals()[f"{_key}_stream"] = stream_class(_key)


def advance(stream, x, h):
    """Advance a stream by one step, or by a block of steps.

    For functions that Numba compiles; from Python it works, too.

    Parameters
    ----------
    stream : tuple
        From `nopython` of a stream, or of the stream of a stack of layers.
    x : ndarray of shape (D,), (N, D) or (N, T, D)
        Input: of one step of a single sequence, of one step, or of T steps; C-contiguous, of the dtype of the stream.
    h : ndarray of shape (H,), (N, H) or (N, T, H)
        Overwritten with the hidden state after each step, of P columns if it is projected. It may be `x` itself; apart
        from that they must not overlap.

    Raises
    ------
    TypingError
        When the caller is compiled: if the dtype, the number of axes or the layout of an array does not fit.
    ValueError
        If a shape does not fit. The state is what it was.
    """
    _advance_from_python(stream, x, h)


def reset(stream):
    """Set the state of a stream to zero.

    For functions that Numba compiles; from Python it works, too.

    Parameters
    ----------
    stream : tuple
        From `nopython` of a stream, or of the stream of a stack of layers.

    Raises
    ------
    TypingError
        When the caller is compiled: if it is something else.
    """
    _reset_from_python(stream)


@kernel
def _advance_from_python(stream, x, h):
    advance(stream, x, h)


@kernel
def _reset_from_python(stream):
    reset(stream)


def _check_types(x, h, element):
    for name, array in (("x", x), ("h", h)):
        if not isinstance(array, types.Array) or array.dtype != element:
            raise TypingError(f"`{name}` must be an array of {element}, the dtype of the stream; got {array}.")
        if array.layout != "C":
            raise TypingError(f"`{name}` must be C-contiguous: pass numpy.ascontiguousarray of it; got {array}.")
        if array.ndim not in (1, 2, 3) or array.ndim != x.ndim:
            axes = "(D,), (N, D) or (N, T, D)", "as many as `x` has"
            raise TypingError(f"`{name}` must have axes {axes[name == 'h']}; got {array.ndim} of them.")
    if not h.mutable:
        raise TypingError("`h` must be writable; got a read-only array.")


def _is_stack(stream):
    return isinstance(stream, types.UniTuple)


def _cell_of(stream):
    if _is_stack(stream):
        return _cell_of(stream.dtype)
    key = _keys.get(getattr(stream, "instance_class", None))
    if key is None:
        raise TypingError(f"`stream` must be what `nopython` of a stream returns; got {stream}.")
    return cells[key]


@overload(advance, jit_options=OPTIONS)  # type: ignore[arg-type]
def _advance(stream, x, h):
    cell = _cell_of(stream)
    if _is_stack(stream):
        _check_types(x, h, stream.dtype[0].dtype)

        def advance_stack(stream, x, h):
            advance(stream[0], x, h)
            for k in range(1, len(stream)):
                advance(stream[k], h, h)

        return advance_stack
    _check_types(x, h, stream[0].dtype)
    run, is_projected = cell.stream, cell.projected > 0
    axes = x.ndim
    lane_count = _lanes(stream[0].dtype)
    gates, late, biases, own, kept = len(cell.gates), cell.late, cell.bias_count, cell.own, len(cell.tape)

    def advance_stream(stream, x, h):
        weights, memory, N, D, H, P = stream
        outputs = P if P > 0 else H
        if axes == 1:
            fits = N == 1 and x.shape[0] == D and h.shape[0] == outputs
        else:
            fits = x.shape[0] == N and h.shape[0] == N and x.shape[-1] == D and h.shape[-1] == outputs
        if axes == 3:
            fits = fits and x.shape[1] == h.shape[1]
        if not fits:
            raise ValueError("`x` and `h` must have the shapes (N, D) and (N, H) of the stream, and as many steps.")
        room, packed = stream_regions(N, D, H, P, gates, late, biases, own, kept, lane_count)[4], weights.size
        # H of a projected cell is that of no array, and products of sizes must not run over.
        most = min(packed // max(D, P, 1), memory.size // max(N, 1))
        is_of_cell = 0 < H <= most and P > 0 if is_projected else P == 0
        if not is_of_cell or memory.size < room or packed < packed_regions(D, H, P, gates, late, biases, lane_count)[5]:
            raise ValueError("`stream` must be what `nopython` of a stream returned, unchanged.")
        if h.size > 0:
            T = x.shape[1] if axes == 3 else 1
            run(x.reshape(N * T, D), weights, memory, h.reshape(N * T, outputs), stream_counts(N, H), 0, T)

    return advance_stream


@overload(reset, jit_options=OPTIONS)  # type: ignore[arg-type]
def _reset(stream):
    cell = _cell_of(stream)
    if _is_stack(stream):

        def reset_stack(stream):
            for part in stream:
                reset(part)

        return reset_stack
    lane_count = _lanes(stream[0].dtype)
    gates, late, biases, own, kept = len(cell.gates), cell.late, cell.bias_count, cell.own, len(cell.tape)

    def reset_stream(stream):
        _, memory, N, D, H, P = stream
        _, tape, base, at, room = stream_regions(N, D, H, P, gates, late, biases, own, kept, lane_count)
        if memory.size < room:
            raise ValueError("`stream` must be what `nopython` of a stream returned, unchanged.")
        memory[:tape] = 0  # the track
        memory[base + at.h : base + at.h + N * at.h_stride] = 0

    return reset_stream


def _lanes(element):
    return LANES[as_dtype(element)]
