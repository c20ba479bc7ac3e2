"""Weights of a layer, packed once: they serve its passes and all of its streams."""

from functools import cached_property
from typing import Any

import numpy as np

from rnnkernels import _sequence
from rnnkernels._checks import check_layer, for_kernels
from rnnkernels._memory import aligned_empty
from rnnkernels._threads import Team
from rnnkernels.kernels import layout, micro_kernel, passes, simd
from rnnkernels.kernels.cell import Cell


class PackedWeights:
    """Weights of one layer and one direction, packed for the kernels; nobody changes them."""

    def __init__(self, cell: Cell, Wx: Any, Wh: Any, biases: dict[str, Any]) -> None:
        Wx, Wh, checked = check_layer(cell, Wx, Wh, biases)
        self.cell, self.dtype = cell, Wx.dtype
        self.D, self.H = len(Wx), len(Wh)
        gates, lanes = len(cell.gates), simd.lanes_of(self.dtype)
        at_Wh, at_b, end = passes.packed_regions(self.D, self.H, gates, len(checked), lanes)
        self.flat = aligned_empty((end,), self.dtype)
        shapes = _sequence.forward_panels(cell, self.D, self.H, self.dtype)
        self.forward = [
            self.flat[begin:stop].reshape(shape)
            for begin, stop, shape in zip((0, at_Wh), (at_Wh, at_b), shapes, strict=True)
        ]
        for weights, panels in zip((Wx, Wh), self.forward, strict=True):
            Team(1).run(layout.pack_columns, (for_kernels(weights), gates, panels), (1,))
        vectors = (end - at_b) // len(checked) // lanes
        for k, bias in enumerate(checked):
            passes.interleave_bias(for_kernels(bias), gates, self.flat, at_b + k * vectors * lanes, vectors)
        self._at_b = at_b

    @cached_property
    def parameters(self) -> dict[str, np.ndarray]:
        """The weights in natural order, read-only."""
        gates, lanes = len(self.cell.gates), simd.lanes_of(self.dtype)
        width = micro_kernel.panel_columns(self.dtype)
        matrices = [
            panels.reshape(len(panels), depth, width).swapaxes(0, 1).reshape(depth, len(panels) * width)
            for panels, depth in zip(self.forward, (self.D, self.H), strict=True)
        ]
        biases = self.flat[self._at_b :].reshape(len(self.cell.biases), -1)
        columns = gates * -(-self.H // lanes) * lanes
        named = dict(zip(("Wx", "Wh", *self.cell.biases), (*matrices, *biases), strict=True))
        for name, rows in named.items():
            natural = _sequence.natural(rows[..., :columns], self.H, gates)
            named[name] = np.ascontiguousarray(natural.reshape(*natural.shape[:-2], gates * self.H))
            named[name].setflags(write=False)
        return named

    @cached_property
    def backward(self) -> list[np.ndarray]:
        """Panels of Wx and Wh for the backward kernels."""
        shapes = _sequence.backward_panels(self.cell, self.D, self.H, self.dtype)
        weights = [for_kernels(self.parameters[name]) for name in ("Wx", "Wh")]
        return _sequence.pack(Team(1), layout.pack_transposed, weights, len(self.cell.gates), shapes)
