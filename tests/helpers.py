"""What the tests share: problems, finite differences, and a comparison with an error bound."""

import functools
import math

import numpy as np

from rnnkernels import _tuning
from rnnkernels.kernels.cell import cells

DTYPES = [np.float32, np.float64]
GATES = {key: len(cell.gates) for key, cell in cells.items() if not cell.own and not cell.projected}
"""Of the cells but the variants of the LSTM, which have tests of their own: test_peepholes.py, test_projection.py."""
DIVIDED = {key: gates for key, gates in GATES.items() if key != "rnn_relu"}
"""Without a cell that only differs from another in its row functions, for tests of how the work is divided."""

# Rounding errors of one step, in units of eps times the size of the result: sums of up to a few hundred terms of random
# sign (some sqrt(n) eps), activations (2 ulp), and what the recurrence carries on. All tests pass with 20 too; a wrong
# term, sign or index shows as 1 / eps.
TOLERANCE_EPS = 100


def function(module, key, way):
    """A cell's function of `module`, such as `rnnkernels.gru_forward`, with the arguments that ask for the variant."""
    cell = cells[key]
    found = getattr(module, f"{cell.name}_{way}")
    return functools.partial(found, **dict(cell.options)) if cell.options and way.endswith("forward") else found


def kind(module, key, suffix=""):
    """The class of a cell, such as `rnnkernels.GRU` or `rnnkernels.GRUStream`, likewise."""
    cell = cells[key]
    found = getattr(module, f"{cell.name.upper()}{suffix}")
    return functools.partial(found, **dict(cell.options)) if cell.options else found


def make_arguments(rng, gates, N, T, D, H, dtype):
    """Arguments of a forward pass whose gates are neither saturated nor idle."""
    return [
        rng.standard_normal((N, T, D)).astype(dtype),
        rng.standard_normal((N, H)).astype(dtype),
        (rng.standard_normal((D, gates * H)) / np.sqrt(max(D, 1))).astype(dtype),
        (rng.standard_normal((H, gates * H)) / np.sqrt(max(H, 1))).astype(dtype),
        (0.5 * rng.standard_normal(gates * H)).astype(dtype),
    ]


def assert_close(got, want, dtype, factor=TOLERANCE_EPS):
    """Compare with an exact-compared-to-`dtype` result: dtype, shape, and error relative to the largest element."""
    assert got.dtype == dtype
    assert got.shape == want.shape
    if got.size == 0:
        return
    assert np.isfinite(got).all()
    bound = factor * np.finfo(dtype).eps * max(float(np.abs(want).max()), np.finfo(dtype).tiny)
    error = float(np.abs(got.astype(np.longdouble) - want).max())
    assert error <= bound, f"error {error:.3g} above {bound:.3g}"


def assert_all_close(got, want, dtype):
    """`assert_close` for several results."""
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, dtype)


def assert_same_bits(got, want):
    """Compare bit by bit, so that NaN equals NaN and -0 differs from 0."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    np.testing.assert_array_equal(
        np.ascontiguousarray(got).view(f"u{got.itemsize}"), np.ascontiguousarray(want).view(f"u{want.itemsize}")
    )


def exact(arrays):
    """The arrays in longdouble, in which `reference` is exact compared with float64."""
    return [np.asarray(a, np.longdouble) for a in arrays]


def numerical_gradient(function, argument, upstream, step=1e-3):
    """Gradient of sum(function() * upstream) with respect to `argument`, float64, by five-point differences."""
    gradient = np.zeros_like(argument)
    for index in np.ndindex(argument.shape):
        kept = argument[index]
        total = 0.0
        for offset, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
            argument[index] = kept + offset * step
            total += weight * float(np.sum(function() * upstream))
        argument[index] = kept
        gradient[index] = total / (12 * step)
    return gradient


class GuardedMemory:
    """Allocations that show a missing or a misplaced access; kernels do not check bounds themselves.

    Fresh arrays hold NaN, so that reading before writing shows in the result. So do their borders, and `check` finds
    what was written there.
    """

    BORDER_BYTES = 256  # whole cache lines, so that what is aligned stays so
    BORDER = 0xFF  # as a float: NaN

    def __init__(self):
        self.blocks = []

    def guarded(self, allocate, value=np.nan):
        def allocate_guarded(shape, dtype):
            border, size = self.BORDER_BYTES // dtype.itemsize, math.prod(shape)
            block = allocate((border + size + border,), dtype)
            block.view(np.uint8).fill(self.BORDER)
            self.blocks.append((block, border))
            array = block[border : border + size].reshape(shape)
            array.fill(value if dtype.kind == "f" else np.iinfo(dtype).min // 2)
            return array

        return allocate_guarded

    def check(self):
        for block, border in self.blocks:
            borders = np.concatenate([block[:border], block[-border:]])
            assert (borders.view(np.uint8) == self.BORDER).all(), "something was written outside an array"


def force_packing(monkeypatch, packed):
    """Let weights be packed in every call, or in none."""
    monkeypatch.setattr(_tuning, "PACKED_LEAST_STEPS", 0 if packed else math.inf)
    for steps in ("PACKED_FORWARD_STEPS", "PACKED_BACKWARD_STEPS"):
        monkeypatch.setattr(_tuning, steps, (0, 0))
