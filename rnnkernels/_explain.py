"""What a call would do, before it is made."""

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from rnnkernels import _sequence
from rnnkernels._checks.cells import Sizes
from rnnkernels._checks.settings import check_absent, check_choice, check_count, check_float_dtype
from rnnkernels._costs import backward_costs, bandwidth, forward_costs
from rnnkernels._packing import backward_packing, forward_packing, unit_columns
from rnnkernels.kernels import micro_kernel
from rnnkernels.kernels.cell import Cell, cells


@dataclass(frozen=True)
class PhasePlan:
    """A phase of a pass; amounts are those of all threads together, in the whole pass."""

    name: str
    flops: int
    """Floating-point operations of matrix products."""
    bytes: int
    """Bytes read and written, most of them in caches."""
    limit_seconds: float
    """Shortest time on this machine: see `explain`."""


@dataclass(frozen=True)
class PassPlan:
    """A forward or a backward pass."""

    direction: str
    threads: int
    """Most threads that take part."""
    split: str
    """What threads divide: "none", "sequences" or "hidden units"."""
    chunk: int
    """Steps that a phase treats before the next phase does."""
    strip: int
    """Vectors of hidden units that the forward recurrence treats at once; 0 in a backward pass."""
    recurrent_bytes: int
    """Bytes of Wh, and of a projection, that each thread reads in each step."""
    recurrent_bandwidth: float
    """Bytes per second at which each thread can read so much again and again, as measured."""
    scratch_bytes: int
    """Memory besides arguments, results and cache."""
    phases: tuple[PhasePlan, ...]

    @property
    def flops(self) -> int:
        """Floating-point operations of matrix products."""
        return sum(phase.flops for phase in self.phases)

    @property
    def limit_seconds(self) -> float:
        """Shortest time on this machine: phases follow one another."""
        return sum(phase.limit_seconds for phase in self.phases)


@dataclass(frozen=True, repr=False)
class Explanation:
    """What `explain` returns; `str` of it is made for reading."""

    cell: str
    N: int
    T: int
    D: int
    H: int
    P: int | None
    """Columns of a hidden state that is projected; None where it is not."""
    dtype: str
    training: bool
    tile_rows: int
    """Rows of the register tile of matrix products."""
    panel_columns: int
    """Columns of the register tile, and of a panel of packed weights."""
    cache_bytes: int
    """What the forward pass keeps for the backward pass; 0 for inference."""
    result_bytes: int
    """Arrays that the caller gets."""
    passes: tuple[PassPlan, ...]

    @property
    def flops(self) -> int:
        """Floating-point operations of matrix products."""
        return sum(plan.flops for plan in self.passes)

    @property
    def limit_seconds(self) -> float:
        """Shortest time on this machine."""
        return sum(plan.limit_seconds for plan in self.passes)

    def __repr__(self) -> str:
        sizes = f"N={self.N}, T={self.T}, D={self.D}, H={self.H}" + (f", P={self.P}" if self.P else "")
        task = "training" if self.training else "inference"
        return f"Explanation({self.cell!r}, {sizes}, {self.dtype}, {task}, limit {self.limit_seconds * 1e3:.3g} ms)"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __str__(self) -> str:
        task = "training" if self.training else "inference"
        projected = f"P = {self.P}, " if self.P else ""
        lines = [
            f"{self.cell} {task}, N = {self.N}, T = {self.T}, D = {self.D}, H = {self.H}, {projected}{self.dtype}",
            f"register tile   {self.tile_rows} rows x {self.panel_columns} columns",
            f"results         {self.result_bytes / 1e6:.3g} MB",
            f"cache           {self.cache_bytes / 1e6:.3g} MB",
        ]
        for plan in self.passes:
            threads = f"{plan.threads} thread{'s' * (plan.threads > 1)}"
            lines += [
                f"{plan.direction}",
                f"    threads     {threads}" + (f", which divide the {plan.split}" if plan.threads > 1 else ""),
                f"    chunk       {plan.chunk} steps" + (f", strips of {plan.strip} vectors" if plan.strip else ""),
                f"    scratch     {plan.scratch_bytes / 1e6:.3g} MB",
                f"    Wh          {plan.recurrent_bytes / 1024:,.0f} KiB on each thread in each step, "
                f"read at {plan.recurrent_bandwidth / 1e9:.3g} GB/s at most",
                f"    {'phase':<12}{'GFLOP':>9}{'MB':>11}{'limit, ms':>12}",
            ]
            for phase in plan.phases:
                lines.append(
                    f"    {phase.name:<12}{phase.flops / 1e9:>9.3g}{phase.bytes / 1e6:>11.4g}"
                    f"{phase.limit_seconds * 1e3:>12.3g}"
                )
        lines.append(f"limit of this machine: {self.limit_seconds * 1e3:.3g} ms, {self.flops / 1e9:.3g} GFLOP")
        return "\n".join(lines)


def explain(
    N: int,
    T: int,
    D: int,
    H: int,
    *,
    cell: str = "lstm",
    projection: int | None = None,
    dtype: Any = np.float32,
    training: bool = False,
    num_threads: int | None = None,
) -> Explanation:
    """Tell what a call with arrays of these sizes does, and how fast this machine could do it.

    Parameters
    ----------
    N, T, D, H : int
        Sequences, steps, inputs, hidden units.
    cell : {"lstm", "rnn", "gru"}, default "lstm"
        Which functions, such as `lstm_forward` and `lstm_backward`.
    projection : int, optional
        Columns P of the hidden state of an LSTM that projects it.
    dtype : dtype_like, default float32
        float32 or float64.
    training : bool, default False
        Whether there is a backward pass, for which the forward pass keeps a cache.
    num_threads : int, optional
        Threads that the calls may use, instead of `get_num_threads`.

    Returns
    -------
    Explanation
        Register tile, threads and what they divide, chunks, memory, operations, bytes, and limits by phase.

    Raises
    ------
    TypeError, ValueError
        If a size is no integer or too small, or another argument is not one of those above.

    Notes
    -----
    The limit of a phase is the largest of three times: its operations at the peak of fused multiply-adds; the weights
    and copies that it streams at the bandwidth of the memory that holds them; its activation functions at their speed
    on numbers in the nearest cache. `rnnkernels.roofline` measures these speeds, once per process, when they are first
    needed; that takes some 10 ms for each.

    Examples
    --------
    >>> from rnnkernels import explain
    >>> plan = explain(N=1, T=1000, D=16, H=64, num_threads=1)
    >>> plan.flops, plan.passes[0].recurrent_bytes
    (40960000, 65536)
    >>> explain(1, 1000, 16, 64, training=True, num_threads=1).limit_seconds > plan.limit_seconds
    True
    """
    kind, projected = _chosen(cell, projection)
    dtype = check_float_dtype("dtype", dtype)
    counts = check_count("N", N, 0), check_count("T", T, 0), check_count("D", D, 0), check_count("H", H)
    sizes = Sizes(*counts, projected)
    N, T, D, H = counts
    P, columns, item = sizes.P, len(kind.gates) * H, dtype.itemsize
    units = unit_columns(H, dtype)
    passes = [_explain_pass("forward", sizes, kind, dtype, training, num_threads)]
    result_bytes, cache_bytes = N * T * P * item, 0
    if training:
        passes.append(_explain_pass("backward", sizes, kind, dtype, training, num_threads))
        of_states, of_weights = N * (P + H * (len(kind.states) - 1)), (D + P + kind.bias_count) * columns
        result_bytes += (N * T * D + of_states + of_weights + H * projected) * item
        cache_bytes = (T * len(kind.tape) + T + 1) * N * units * item
    return Explanation(
        cell=kind.key,
        N=N,
        T=T,
        D=D,
        H=H,
        P=projected or None,
        dtype=dtype.name,
        training=training,
        tile_rows=micro_kernel.TILE_ROWS,
        panel_columns=micro_kernel.panel_columns(dtype),
        cache_bytes=cache_bytes,
        result_bytes=result_bytes,
        passes=tuple(passes),
    )


def _chosen(cell: str, projection: Any) -> tuple[Cell, int]:
    """The cell of a name, or of the name and with a projection, and the columns of that."""
    check_choice("cell", cell, cells)
    kind = cells[cell]
    if projection is None and not kind.projected:
        return kind, 0
    if not kind.projected:
        key = f"{cell}_projected"
        if key not in cells:
            check_absent("projection", projection, f"the cell {cell!r} has none")
        kind = cells[key]
    return kind, check_count("projection", projection)


def _explain_pass(
    direction: str, sizes: Sizes, cell: Cell, dtype: np.dtype, keeps: bool, num_threads: int | None
) -> PassPlan:
    if direction == "forward":
        plan = _sequence.plan_forward(cell, sizes, dtype, num_threads)
        packing = forward_packing(cell.key, sizes.D, sizes.H, sizes.projected, dtype)
        costs = forward_costs(sizes, cell, dtype, plan, keeps)
    else:
        plan = _sequence.plan_backward(cell, sizes, dtype, num_threads)
        packing = backward_packing(cell.key, sizes.D, sizes.H, sizes.projected, dtype)
        costs = backward_costs(sizes, cell, dtype, plan)
    resident = costs["recur"].resident
    return PassPlan(
        direction=direction,
        threads=plan.threads,
        split="none" if plan.threads == 1 else "sequences" if plan.by_rows else "hidden units",
        chunk=plan.chunk,
        strip=plan.strip,
        recurrent_bytes=resident,
        recurrent_bandwidth=bandwidth(resident, plan.threads) / plan.threads,
        scratch_bytes=(plan.scratch + packing.size * plan.packs) * dtype.itemsize,
        phases=tuple(
            PhasePlan(name, cost.flops, cost.bytes, cost.limit_seconds(dtype, plan.threads))
            for name, cost in costs.items()
        ),
    )
