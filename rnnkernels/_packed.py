"""Weights of a layer, packed once: they serve its passes and all of its streams."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from rnnkernels import _sequence
from rnnkernels._checks.arrays import for_kernels
from rnnkernels._checks.cells import Sizes, check_layer, check_peepholes, check_projection, in_range
from rnnkernels._memory import aligned_empty
from rnnkernels._packing import (
    all_matrices,
    backward_packing,
    forward_packing,
    pack,
    panel_columns,
    projection_of,
    unit_columns,
)
from rnnkernels._threads import Team
from rnnkernels.kernels import micro_kernel, passes, simd
from rnnkernels.kernels.cell import Cell


class PackedWeights:
    """Weights of one layer and one direction, packed for the kernels; nobody changes them."""

    def __init__(self, cell: Cell, Wx: Any, Wh: Any, biases: dict[str, Any], cell_clip: float | None = None) -> None:
        self.cell_clip, self.has_peepholes = cell_clip, biases.get("peepholes") is not None
        if cell.own:
            biases = {**biases, "peepholes": check_peepholes(cell, biases.get("peepholes"), cell_clip, Wh)}
        if cell.projected:
            biases = {**biases, "projection": check_projection(cell, biases.get("projection"), biases["b"])}
        Wx, Wh, checked = check_layer(cell, Wx, Wh, {name: biases.get(name) for name in cell.biases})
        self.cell, self.dtype = cell, Wx.dtype
        gates, lanes = len(cell.gates), simd.lanes_of(self.dtype)
        self.D, self.H, self.P = len(Wx), Wx.shape[1] // gates, len(Wh)
        self.flops_per_input = _sequence.step_flops(self.sizes(1, 1), cell) / max(self.D, 1)
        at_Wh, at_b, zeros, at_Wp, at_clip, end = passes.packed_regions(
            self.D, self.H, self.P * cell.projected, gates, cell.late, cell.bias_count, lanes
        )
        self.flat = aligned_empty((end,), self.dtype)
        self.flat[zeros:at_Wp], self.flat[at_clip:] = 0, in_range(cell.clip, self.dtype)
        self._sizes = self.D, self.H, self.P * cell.projected
        borders = [(0, at_Wh), (at_Wh, at_b), (at_Wp, at_clip)][: 2 + cell.projected]
        rows = [self.flat[begin:stop].reshape(1, stop - begin) for begin, stop in borders]
        matrices = all_matrices((Wx, Wh), projection_of(cell, checked))
        self.forward = pack(Team(1), forward_packing(cell.key, *self._sizes, self.dtype), matrices, rows)
        self._biases = self.flat[at_b:zeros].reshape(cell.bias_count, -1)
        begin = at_b
        for k, bias in enumerate(checked[: cell.bias_count]):
            for first, count in cell.stages if k else ((0, gates),):
                length = panel_columns(count * unit_columns(self.H, self.dtype), self.dtype)
                passes.interleave_bias(for_kernels(bias), first, count, gates, self.flat, begin, length // lanes)
                begin += length
            begin = at_b + (k + 1) * self._biases.shape[1]

    def sizes(self, N: int, T: int) -> Sizes:
        """Those of a call with so many sequences and steps."""
        return Sizes(N, T, self.D, self.H, self.P * self.cell.projected)

    @cached_property
    def parameters(self) -> dict[str, np.ndarray]:
        """Weights, biases and peepholes, if there are any, as callers name them; read-only."""
        named = dict(self.arguments)
        if self.cell.projected:
            named["projection"] = named["projection"].reshape(self.H, self.P)
        if self.cell.own:
            own = named.pop("peepholes")
            if self.has_peepholes:
                named["peepholes"] = _sequence.peepholes_of(self.cell, own)
        return named

    @cached_property
    def gradients(self) -> list[tuple[str, str]]:
        """Names of the parameters, and of their gradients."""
        return [(name, f"d{name}") for name in self.parameters]

    @cached_property
    def arguments(self) -> dict[str, np.ndarray]:
        """The weights in natural order, and the biases of the cell; read-only."""
        cell, H = self.cell, self.H
        lanes, width = simd.lanes_of(self.dtype), micro_kernel.panel_columns(self.dtype)
        columns_of = ("Wx", H), ("Wh", H), ("projection", self.P)
        of_matrix: dict[str, list[np.ndarray]] = {name: [] for name, _ in columns_of}
        for part in forward_packing(cell.key, *self._sizes, self.dtype).panels:
            (name, columns), (count, length) = columns_of[part.matrix], part.shape
            flat = self.forward[part.matrix][0, part.begin : part.stop]
            rows = flat.reshape(count, length // width, width).swapaxes(0, 1).reshape(length // width, count * width)
            of_matrix[name].append(_natural(rows[:, : part.gates * -(-columns // lanes) * lanes], columns, part.gates))
        named = {name: np.concatenate(found, axis=1) for name, found in of_matrix.items() if found}
        projection = named.pop("projection", None)
        for k, (name, row) in enumerate(zip(cell.biases, self._biases, strict=False)):
            found = []
            for _, gates in cell.stages if k else ((0, len(cell.gates)),):
                columns = gates * -(-H // lanes) * lanes
                found.append(_natural(row[:columns], H, gates))
                row = row[-(-columns // width) * width :]
            named[name] = np.concatenate(found)
        if projection is not None:
            named["projection"] = projection.reshape(-1)
        for array in named.values():
            array.setflags(write=False)
        return named

    @cached_property
    def natural(self) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
        """Wx, Wh and the biases of `arguments`."""
        Wx, Wh, *biases = self.arguments.values()
        return Wx, Wh, tuple(biases)

    @cached_property
    def backward(self) -> Sequence[np.ndarray]:
        """Panels of Wx, Wh and a projection for the backward kernels."""
        Wx, Wh, biases = self.natural
        matrices = all_matrices((Wx, Wh), projection_of(self.cell, biases))
        return pack(Team(1), backward_packing(self.cell.key, *self._sizes, self.dtype), matrices)


def _natural(rows: np.ndarray, hidden: int, gates: int) -> np.ndarray:
    natural = _sequence.natural(rows, hidden, gates)
    return natural.reshape(*natural.shape[:-2], gates * hidden)
