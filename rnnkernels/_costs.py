"""What a pass over sequences costs, phase by phase, and how fast the machine could do it."""

from functools import cache
from typing import NamedTuple

import numpy as np

from rnnkernels import roofline
from rnnkernels._checks.cells import Sizes
from rnnkernels._packing import unit_columns
from rnnkernels._sequence import Plan
from rnnkernels.kernels.cell import Cell


class Cost(NamedTuple):
    """What a phase has to do in a whole pass, all threads together."""

    flops: int = 0
    """Floating-point operations of matrix products."""
    bytes: int = 0
    """Bytes that are read and written, each as often as the phase asks for it, from whatever cache has it."""
    streamed: int = 0
    """Those of them that come in a linear stream that is too long to stay in registers: mostly weights."""
    resident: int = 0
    """Size of what a thread streams again and again, which decides from which cache it comes."""
    sigmoids: int = 0
    tanhs: int = 0

    def limit_seconds(self, dtype: np.dtype, threads: int) -> float:
        """Shortest time on this machine: operations at the FMA peak, or bytes at the bandwidth, or activations."""
        seconds = 0.0
        if self.flops:
            seconds = self.flops / _fma_peak(dtype, threads)
        if self.streamed:
            seconds = max(seconds, self.streamed / bandwidth(self.resident, threads))
        if self.sigmoids or self.tanhs:
            rates = _activation_rates(dtype, threads)
            seconds = max(seconds, self.sigmoids / rates.sigmoid + self.tanhs / rates.tanh)
        return seconds


def together(first: dict[str, Cost], second: dict[str, Cost]) -> dict[str, Cost]:
    """Costs of two passes of one call."""
    nothing = Cost()
    both = {}
    for name in (*first, *(name for name in second if name not in first)):
        a, b = first.get(name, nothing), second.get(name, nothing)
        sums = Cost(*(x + y for x, y in zip(a, b, strict=True)))
        both[name] = sums._replace(resident=max(a.resident, b.resident))
    return both


# Measured once per process; the machine does not change.
_fma_peak = cache(roofline.fma_peak)
_activation_rates = cache(roofline.activation_rates)


@cache
def bandwidth(resident: int, threads: int) -> float:
    """Bytes per second at which threads together read so many bytes each, again and again."""
    return roofline.read_bandwidth(max(resident, 1), threads)


def forward_costs(
    sizes: Sizes,
    cell: Cell,
    dtype: np.dtype,
    plan: Plan,
    keeps: bool,
    rows: int | None = None,
    returned: int | None = None,
) -> dict[str, Cost]:
    """Costs of the phases of a forward pass; `keeps` says whether it leaves a cache for the backward pass.

    All sequences together have so many `rows`, of which so many are `returned`: N * T, if nothing else is said.
    """
    N, T, D, H, projected = sizes
    P = sizes.P
    rows = N * T if rows is None else rows
    returned = rows if returned is None else min(returned, rows)
    item, chunks = dtype.itemsize, _chunks(sizes, rows, plan)
    units, gates, apart = unit_columns(H, dtype), len(cell.gates), cell.bias_count - cell.own > 1
    columns = gates * units
    Wx, Wh, parts, readers = _weights(sizes, columns, item, plan)
    return {
        "gather": _copies(2 * rows * D * item, plan.chunk * N * D * item),
        "project": Cost(
            flops=2 * rows * D * gates * H,
            bytes=readers * chunks * Wx + rows * (D + columns) * item,
            streamed=readers * chunks * Wx,
            resident=Wx // parts,
        ),
        "recur": Cost(
            flops=2 * rows * H * (gates * P + projected),
            bytes=readers * T * Wh + rows * (P + 2 * columns + (H + P) * (projected > 0)) * item,
            streamed=readers * T * Wh,
            resident=Wh // parts,
        ),
        "cell": Cost(
            # z, products that are apart, and the earlier tracked state in; h, the tracked state and the tape out
            bytes=rows * (columns * (1 + apart) + units * (3 + len(cell.tape) * keeps)) * item,
            sigmoids=rows * units * cell.sigmoids,
            tanhs=rows * units * cell.tanhs,
        ),
        "scatter": _copies(2 * (returned + N) * P * item, plan.chunk * N * P * item),
    }


def backward_costs(sizes: Sizes, cell: Cell, dtype: np.dtype, plan: Plan, rows: int | None = None) -> dict[str, Cost]:
    """Costs of the phases of a backward pass; `rows` as for `forward_costs`."""
    N, T, D, H, projected = sizes
    P = sizes.P
    rows = N * T if rows is None else rows
    item, chunks = dtype.itemsize, _chunks(sizes, rows, plan)
    units, gates, apart = unit_columns(H, dtype), len(cell.gates), cell.bias_count > 1
    columns = gates * units
    Wx, Wh, parts, readers = _weights(sizes, columns, item, plan)
    sums = ((D + P) * columns + H * projected) * item
    return {
        "gather": _copies(2 * rows * (D + P) * item, plan.chunk * N * (D + P) * item),
        "cell": Cost(
            # tape, tracked states and dh in; dz and the earlier h out; what else is carried in and out
            bytes=rows * (columns * (1 + apart) + units * (len(cell.tape) + 2 + 2 * len(cell.states))) * item,
            tanhs=rows * units * cell.backward_tanhs,
        ),
        "recur": Cost(
            flops=2 * rows * H * (gates * P + projected),
            bytes=readers * T * Wh + rows * (2 * P + columns + (H + P) * (projected > 0)) * item,
            streamed=readers * T * Wh,
            resident=Wh // parts,
        ),
        "accumulate": Cost(
            # of a projected state the h before each step, too, and the gradient of what projects it
            flops=2 * rows * H * (gates * (2 * D + P) + 2 * projected),
            bytes=chunks * (readers * Wx + 2 * sums) + rows * (3 * columns + 2 * D + P + 2 * projected) * item,
            streamed=chunks * (readers * Wx + 2 * sums),
            resident=(Wx + sums) // parts,
        ),
    }


def _chunks(sizes: Sizes, rows: int, plan: Plan) -> int:
    """How many chunks there are at least: they hold as many rows as have room."""
    return -(-rows // max(plan.chunk * sizes.N, 1))


def _weights(sizes: Sizes, columns: int, item: int, plan: Plan) -> tuple[int, int, int, int]:
    """Bytes of Wx, and of Wh and a projection, in how many parts threads divide them, and how many read each part."""
    parts = 1 if plan.by_rows else plan.threads
    recurrent = sizes.P * columns + sizes.H * sizes.projected
    return sizes.D * columns * item, recurrent * item, parts, plan.threads // parts


def _copies(n_bytes: int, resident: int) -> Cost:
    return Cost(bytes=n_bytes, streamed=n_bytes, resident=resident)
