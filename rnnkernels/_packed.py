"""Weights of a layer, packed once: they serve its passes and all of its streams."""

from functools import cached_property
from typing import Any

import numpy as np

from rnnkernels import _sequence
from rnnkernels._checks.arrays import for_kernels
from rnnkernels._checks.cells import check_layer, check_peepholes
from rnnkernels._memory import aligned_empty
from rnnkernels._threads import Team
from rnnkernels.kernels import layout, micro_kernel, passes, simd
from rnnkernels.kernels.cell import Cell


class PackedWeights:
    """Weights of one layer and one direction, packed for the kernels; nobody changes them."""

    def __init__(self, cell: Cell, Wx: Any, Wh: Any, biases: dict[str, Any], cell_clip: float | None = None) -> None:
        self.cell_clip, self._has_peepholes = cell_clip, biases.get("peepholes") is not None
        if cell.own:
            biases = {**biases, "peepholes": check_peepholes(cell, biases.get("peepholes"), cell_clip, Wh)}
        Wx, Wh, checked = check_layer(cell, Wx, Wh, biases)
        self.cell, self.dtype = cell, Wx.dtype
        self.D, self.H = len(Wx), len(Wh)
        gates, lanes = len(cell.gates), simd.lanes_of(self.dtype)
        self.flops_per_input = 2 * gates * self.H * (self.D + self.H) / max(self.D, 1)
        at_Wh, at_b, end = passes.packed_regions(self.D, self.H, gates, cell.late, len(checked), lanes)
        self.flat = aligned_empty((end,), self.dtype)
        self._panels = _sequence.forward_panels(cell, self.D, self.H, self.dtype)
        memory = [self.flat[begin:stop].reshape(1, stop - begin) for begin, stop in ((0, at_Wh), (at_Wh, at_b))]
        self.forward = _sequence.pack(Team(1), layout.pack_columns, (Wx, Wh), gates, self._panels, memory)
        self._at_b = begin = at_b
        for k, bias in enumerate(checked):
            for first, count in cell.stages if k else ((0, gates),):
                length = _sequence.panel_columns(count * _sequence.unit_columns(self.H, self.dtype), self.dtype)
                passes.interleave_bias(for_kernels(bias), first, count, gates, self.flat, begin, length // lanes)
                begin += length
            begin = at_b + (k + 1) * (end - at_b) // len(checked)

    @cached_property
    def parameters(self) -> dict[str, np.ndarray]:
        """Weights, biases and peepholes, if there are any, as callers name them; read-only."""
        named = dict(self.arguments)
        if self.cell.own:
            own = named.pop("peepholes")
            if self._has_peepholes:
                named["peepholes"] = _sequence.peepholes_of(self.cell, own)
        return named

    @cached_property
    def arguments(self) -> dict[str, np.ndarray]:
        """The weights in natural order, and the biases of the cell; read-only."""
        cell, H = self.cell, self.H
        lanes, width = simd.lanes_of(self.dtype), micro_kernel.panel_columns(self.dtype)
        named = {}
        for name, packed, parts in zip(("Wx", "Wh"), self.forward, self._panels, strict=True):
            flat, found = packed.reshape(-1), []
            for _, gates, (count, length) in parts:
                panels, flat = flat[: count * length].reshape(count, length // width, width), flat[count * length :]
                rows = panels.swapaxes(0, 1).reshape(length // width, count * width)
                found.append(_natural(rows[:, : gates * -(-H // lanes) * lanes], H, gates))
            named[name] = np.concatenate(found, axis=1)
        rows = self.flat[self._at_b :].reshape(len(cell.biases), -1)
        for k, (name, row) in enumerate(zip(cell.biases, rows, strict=True)):
            found = []
            for _, gates in cell.stages if k else ((0, len(cell.gates)),):
                columns = gates * -(-H // lanes) * lanes
                found.append(_natural(row[:columns], H, gates))
                row = row[-(-columns // width) * width :]
            named[name] = np.concatenate(found)
        for array in named.values():
            array.setflags(write=False)
        return named

    @cached_property
    def backward(self) -> list[np.ndarray]:
        """Panels of Wx and Wh for the backward kernels."""
        panels = _sequence.backward_panels(self.cell, self.D, self.H, self.dtype)
        weights = [self.arguments[name] for name in ("Wx", "Wh")]
        return _sequence.pack(Team(1), layout.pack_transposed, weights, len(self.cell.gates), panels)


def _natural(rows: np.ndarray, hidden: int, gates: int) -> np.ndarray:
    natural = _sequence.natural(rows, hidden, gates)
    return natural.reshape(*natural.shape[:-2], gates * hidden)
