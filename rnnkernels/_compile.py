"""Compilation of everything ahead of time, for images and for installations that cannot be written to."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

import rnnkernels
from rnnkernels._checks.arrays import FLOAT32, FLOAT64
from rnnkernels._checks.settings import check_choice, check_float_dtype
from rnnkernels.kernels import inventory, team, trace
from rnnkernels.kernels.cell import Cell
from rnnkernels.kernels.cell import cells as known_cells

N, T, D, H, P = 2, 3, 4, 5, 3
LARGE = 256
"""Steps and units of layers that are not small, for which there may be kernels of their own."""


def compile_all(
    cells: Iterable[str] | None = None,
    dtypes: Iterable[Any] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """Compile every function, or load its machine code from the disk, so that no later call has to wait.

    Parameters
    ----------
    cells : iterable of str, optional
        Recurrent cells, such as ["lstm"]; all without it. The other layers are always compiled.
    dtypes : iterable of dtype_like, optional
        Of float32 and float64; both without it.
    progress : callable, optional
        Called as ``progress(done, total, what)`` before each part, and at the end with an empty `what`.

    Raises
    ------
    TypeError, ValueError
        If a cell or a dtype is not one of those above.

    Notes
    -----
    It calls each public function with small arrays. ``python -m rnnkernels compile`` does the same in several processes
    side by side.

    Examples
    --------
    >>> import rnnkernels
    >>> rnnkernels.compile_all(cells=["rnn"], dtypes=["float32"])
    """
    chosen = list(known_cells if cells is None else cells)
    for name in chosen:
        check_choice("cells", name, known_cells)
    floats = [check_float_dtype("dtypes", dtype) for dtype in (dtypes or (FLOAT32, FLOAT64))]
    parts = [
        part
        for dtype in floats
        for part in (*_parts([known_cells[name] for name in chosen], dtype), *_other_parts(dtype))
    ]
    for done, (what, run) in enumerate(parts):
        if progress:
            progress(done, len(parts), what)
        run()
    if progress:
        progress(len(parts), len(parts), "")


def compile_group(cell: str, dtype: str) -> tuple[int, int]:
    """Compile a cell, or the other layers if there is no name; returns how much was compiled and how much loaded."""
    before = inventory.count_machine_code()
    for _, run in _parts([known_cells[cell]], np.dtype(dtype)) if cell else _other_parts(np.dtype(dtype)):
        run()
    after = inventory.count_machine_code()
    return after.compiled - before.compiled, after.loaded - before.loaded


def _parts(cells: list[Cell], dtype: np.dtype) -> Iterator[tuple[str, Callable[[], None]]]:
    for cell in cells:
        for way in (_sequences, _steps, _stream):
            yield f"{cell.key}{way.__name__.replace('_', ' ')}, {dtype}", partial(way, cell, dtype)


def _other_parts(dtype: np.dtype) -> Iterator[tuple[str, Callable[[], None]]]:
    for layers in (_other_layers, _machine):
        yield f"{layers.__name__.replace('_', ' ').strip()}, {dtype}", partial(layers, dtype)


def _weights(cell: Cell, dtype: np.dtype) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Weights of a cell, and what chooses it."""
    columns, outputs = len(cell.gates) * H, P if cell.projected else H
    options = dict(cell.options)
    if cell.projected:
        options["projection"] = np.zeros((H, P), dtype)
    return [np.zeros(shape, dtype) for shape in ((D, columns), (outputs, columns), (columns,))], options


def _sequences(cell: Cell, dtype: np.dtype) -> None:
    weights, options = _weights(cell, dtype)
    arguments = np.zeros((N, T, D), dtype), None, *weights
    forward, backward = (getattr(rnnkernels, f"{cell.name}_{way}") for way in ("forward", "backward"))
    h, cache = forward(*arguments, **options)
    backward(h, cache)
    _, cache = forward(*arguments, **options, lengths=np.arange(N))
    backward(h, cache)


def _steps(cell: Cell, dtype: np.dtype) -> None:
    weights, options = _weights(cell, dtype)
    states = [np.zeros((N, width), dtype) for width in (len(weights[1]), H)[: len(cell.states)]]
    forward, backward = (getattr(rnnkernels, f"{cell.name}_step_{way}") for way in ("forward", "backward"))
    *_, cache = forward(np.zeros((N, D), dtype), *states, *weights, **options)
    backward(*states, cache)


def _stream(cell: Cell, dtype: np.dtype) -> None:
    kind, (weights, options) = getattr(rnnkernels, f"{cell.name.upper()}Stream"), _weights(cell, dtype)
    stream = kind(*weights, batch_size=N, **options)
    stream.step(np.zeros((N, D), dtype))
    stream.steps(np.zeros((N, T, D), dtype))


def _other_layers(dtype: np.dtype) -> None:
    rnnkernels.sigmoid(np.zeros(T, dtype))
    for steps, size in ((T, D), (LARGE, LARGE)):
        words = np.zeros((N, steps), np.int64)
        out, of_embedding = rnnkernels.word_embedding_forward(words, np.zeros((size, size), dtype))
        scores, of_affine = rnnkernels.temporal_affine_forward(
            out, np.zeros((size, size), dtype), np.zeros(size, dtype)
        )
        _, dscores = rnnkernels.temporal_softmax_loss(scores, words, np.ones((N, steps)))
        dout, _, _ = rnnkernels.temporal_affine_backward(dscores, of_affine)
        rnnkernels.word_embedding_backward(dout, of_embedding)
        rnnkernels.temporal_affine_softmax_loss(
            out, np.zeros((size, size), dtype), np.zeros(size, dtype), words, np.ones((N, steps))
        )


def _machine(dtype: np.dtype) -> None:
    """What threads listen in, and what profiles measure by."""
    board = np.zeros(team.BARRIERS + team.MOST_MEMBERS * team.WORDS, np.int64)
    team.listen(board, 0, 0)
    trace.read_clock()
    rnnkernels.roofline.fma_peak(dtype)
    rnnkernels.roofline.activation_rates(dtype)
    rnnkernels.roofline.read_bandwidth(1)
