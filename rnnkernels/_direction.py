"""One layer in one direction, on packed weights: all passes and steps of layers and stacks go through here.

So it is here that they are recorded while somebody profiles.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from rnnkernels import _recorder as recorder
from rnnkernels import _recurrent
from rnnkernels import _tuning as tuning
from rnnkernels._checks.arrays import check_given_float
from rnnkernels._packed import PackedWeights
from rnnkernels._pipeline import Pass
from rnnkernels._recurrent import Family
from rnnkernels._results import ForwardResult, SequenceGradients


def forward(
    family: Family,
    packed: PackedWeights,
    x: Any,
    states: tuple[Any, ...],
    keep_cache: bool,
    num_threads: int | None,
    **options: Any,
) -> ForwardResult[Any, Any]:
    """Run over whole sequences, with the options of the functions."""
    run, x = _recurrent.forward, in_dtype(x, packed.dtype)
    if recorder.listeners:
        run = _recorded(run, family, "forward", _given(family, packed, x, states))
    panels = None if _is_little(packed, x) else packed.forward
    return run(family, x, states, *packed.natural, keep_cache, num_threads, panels, **options)


def backward(
    family: Family,
    packed: PackedWeights,
    dh: Any,
    cache: Any,
    dstate: Any,
    num_threads: int | None,
    later: list[Pass] | None = None,
) -> SequenceGradients:
    """Propagate gradients back through whole sequences."""
    run, panels = _recurrent.backward, None
    if recorder.listeners:
        run = _recorded(run, family, "backward", {"dh": dh, "cache": cache})
    if isinstance(cache, family.cache) and cache.Wx is packed.arguments["Wx"]:
        dh = dh if dh is None else in_dtype(dh, packed.dtype, "dh")
        panels = None if _is_little(packed, cache.x) else packed.backward
    return run(family, dh, cache, dstate, num_threads, panels, later)


def step(family: Family, packed: PackedWeights, x: Any, states: tuple[Any, ...]) -> list[Any]:
    """Advance by one step; returns the next states."""
    run, x = _recurrent.step_forward, in_dtype(x, packed.dtype)
    if recorder.listeners:
        run = _recorded(run, family, "step", _given(family, packed, x, states))
    panels, threads = (None, None) if _is_little(packed, x) else (packed.forward, 1)
    *following, _ = run(family, x, states, *packed.natural, False, threads, panels)
    return following


def _recorded(run: Callable[..., Any], family: Family, name: str, given: dict[str, Any]) -> Callable[..., Any]:
    """The same for a call that is recorded as one of a method of a layer, `LSTM.forward`."""

    def call(*args: Any, **options: Any) -> Any:
        return recorder.recorded(f"{family.cell.name.upper()}.{name}", lambda: run(*args, **options), lambda: given)

    return call


def _given(family: Family, packed: PackedWeights, x: Any, states: tuple[Any, ...]) -> dict[str, Any]:
    """Arguments by name."""
    return {"x": x, **dict(zip(family.cell.states, states, strict=True)), **packed.arguments}


def _is_little(packed: PackedWeights, x: np.ndarray) -> bool:
    """Whether a call is so small that it is faster as a small call of the functions, which have less to prepare."""
    return x.size * packed.flops_per_input < tuning.LAYER_FLOPS


def named_gradients(packed: PackedWeights, result: SequenceGradients) -> dict[str, np.ndarray]:
    """Gradients of the parameters, by the names of these."""
    return {name: getattr(result, gradient) for name, gradient in packed.gradients}


def in_dtype(x: Any, dtype: np.dtype, name: str = "x") -> Any:
    """An argument in the dtype of a layer."""
    if type(x) is np.ndarray and x.dtype is dtype:
        return x
    return check_given_float(name, x).astype(dtype, copy=False)
