"""Weights as panels: how those of a cell are packed for each direction, and the packing itself."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnkernels._checks.arrays import for_kernels
from rnnkernels._memory import aligned_empty
from rnnkernels._threads import Team
from rnnkernels._tuning import PACKED_ROWS
from rnnkernels.kernels import layout, micro_kernel, simd
from rnnkernels.kernels.cell import Cell, cells


def unit_columns(hidden: int, dtype: np.dtype) -> int:
    """Hidden units rounded up to whole vectors: the columns of one gate inside the package."""
    lanes = simd.lanes_of(dtype)
    return -(-hidden // lanes) * lanes


def panel_columns(columns: int, dtype: np.dtype) -> int:
    """Columns rounded up to whole panels."""
    width = micro_kernel.panel_columns(dtype)
    return -(-columns // width) * width


def panels_shape(depth: int, columns: int, dtype: np.dtype) -> tuple[int, int]:
    """Shape of a packed matrix (depth, columns), a panel in each row."""
    width = micro_kernel.panel_columns(dtype)
    return -(-columns // width), depth * width


class Panels(NamedTuple):
    """Some gates of a matrix that are packed together."""

    kernel: Callable[..., None]
    """What packs them: `layout.pack_columns` or `layout.pack_transposed`."""
    matrix: int
    first_gate: int
    gates: int
    of: int
    """Gates of the matrix."""
    begin: int
    stop: int
    """Elements of the row that the matrix becomes."""
    shape: tuple[int, int]


class Packing(NamedTuple):
    """How matrices are packed, each to a row."""

    panels: tuple[Panels, ...]
    lengths: tuple[int, ...]
    """Of the rows."""
    size: int
    """Elements of all rows."""

    def rows(self, memory: np.ndarray) -> list[np.ndarray]:
        """Rows (1, length) of flat memory, one after the other."""
        found, begin = [], 0
        for length in self.lengths:
            found.append(memory[begin : begin + length].reshape(1, length))
            begin += length
        return found


def packing_of(parts: Iterable[tuple[Callable[..., None], int, int, int, int, tuple[int, int]]]) -> Packing:
    """A packing of these panels, each without its place; those of a matrix follow one another."""
    panels: list[Panels] = []
    lengths: dict[int, int] = {}
    for kernel, matrix, first, gates, of, shape in parts:
        begin = lengths.get(matrix, 0)
        lengths[matrix] = begin + math.prod(shape)
        panels.append(Panels(kernel, matrix, first, gates, of, begin, lengths[matrix], shape))
    return Packing(tuple(panels), tuple(lengths.values()), sum(lengths.values()))


@functools.lru_cache(maxsize=1024)
def forward_packing(key: str, D: int, H: int, projected: int, dtype: np.dtype) -> Packing:
    """How Wx, Wh and a projection of a cell are packed for the forward kernels, one stage after the other."""
    cell, units = cells[key], unit_columns(H, dtype)
    of = len(cell.gates)
    parts: list[Any] = [
        (layout.pack_columns, matrix, first, count, of, panels_shape(depth, count * units, dtype))
        for matrix, depth, stages in ((0, D, ((0, of),)), (1, projected or H, cell.stages))
        for first, count in stages
    ]
    if cell.projected:
        parts.append((layout.pack_columns, 2, 0, 1, 1, panels_shape(H, unit_columns(projected, dtype), dtype)))
    return packing_of(parts)


@functools.lru_cache(maxsize=1024)
def backward_packing(key: str, D: int, H: int, projected: int, dtype: np.dtype) -> Packing:
    """The same for the backward kernels: transposed, with a depth of interleaved columns.

    Of a projection the transposed panels come first, and then those of the forward kernels.
    """
    cell, units = cells[key], unit_columns(H, dtype)
    of = len(cell.gates)
    parts: list[Any] = [
        (layout.pack_transposed, matrix, first, count, of, panels_shape(count * units, columns, dtype))
        for matrix, columns, stages in ((0, D, ((0, of),)), (1, projected or H, cell.stages))
        for first, count in stages
    ]
    if cell.projected:
        outputs = unit_columns(projected, dtype)
        parts.append((layout.pack_transposed, 2, 0, 1, 1, panels_shape(outputs, H, dtype)))
        parts.append((layout.pack_columns, 2, 0, 1, 1, panels_shape(H, outputs, dtype)))
    return packing_of(parts)


def pack(
    team: Team, packing: Packing, matrices: Sequence[np.ndarray], rows: Sequence[np.ndarray] | None = None
) -> Sequence[np.ndarray]:
    """Overwrite rows (1, length) with the panels of matrices; returns them. Without them they are new memory."""
    if rows is None:
        rows = packing.rows(aligned_empty((packing.size,), matrices[0].dtype))
    for kernel, matrix, first, gates, of, begin, stop, shape in packing.panels:
        weights = matrices[matrix]
        data = for_kernels(weights), first, gates, of, rows[matrix][0, begin:stop].reshape(shape)
        team.run(kernel, data, (max(len(weights) // PACKED_ROWS, 1),))
    return rows


def all_matrices(weights: Sequence[np.ndarray], projection: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Wx, Wh and a projection (H, P), which may be flat; None is none."""
    Wx, Wh = weights
    return (Wx, Wh) if projection is None else (Wx, Wh, projection.reshape(-1, len(Wh)))


def projection_of(cell: Cell, biases: tuple[np.ndarray, ...]) -> np.ndarray | None:
    """The flat projection among the biases of a cell, if it has one."""
    return biases[-1] if cell.projected else None
