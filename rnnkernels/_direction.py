"""One layer in one direction, on packed weights: all passes and steps of layers and stacks go through here."""

from typing import Any

import numpy as np

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
    x = in_dtype(x, packed.dtype)
    panels = None if _is_little(packed, x) else packed.forward
    return _recurrent.forward(
        family, x, states, *packed.natural, keep_cache, num_threads, panels, **options, caller="layer"
    )


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
    panels = None
    if isinstance(cache, family.cache) and cache.Wx is packed.arguments["Wx"]:
        dh = dh if dh is None else in_dtype(dh, packed.dtype, "dh")
        panels = None if _is_little(packed, cache.x) else packed.backward
    return _recurrent.backward(family, dh, cache, dstate, num_threads, panels, later, "layer")


def step(family: Family, packed: PackedWeights, x: Any, states: tuple[Any, ...]) -> list[Any]:
    """Advance by one step; returns the next states."""
    x = in_dtype(x, packed.dtype)
    panels, threads = (None, None) if _is_little(packed, x) else (packed.forward, 1)
    *following, _ = _recurrent.step_forward(family, x, states, *packed.natural, False, threads, panels, "layer")
    return following


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
