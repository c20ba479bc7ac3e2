"""A cell that the package does not know: all that serves the cells takes it from its description."""

import numpy as np
import pytest
from helpers import assert_all_close, assert_same_bits, make_arguments, numerical_gradient

import rnnkernels
from rnnkernels import _recurrent
from rnnkernels._caches import RecurrentCache
from rnnkernels._packed import PackedWeights
from rnnkernels.kernels.activations import tanh
from rnnkernels.kernels.cell import Cell, cells
from rnnkernels.kernels.jit import inlined
from rnnkernels.kernels.layout import copy_row
from rnnkernels.kernels.passes import passes_of
from rnnkernels.kernels.simd import fma, lanes, load, negative, store

LEAK = 0.25


@inlined
def leaky_forward(first, end, work, z, product, h_prev, h, tape, tape0, track, track_prev, track_next, own, own0,
                  clip):  # fmt: skip
    for j in range(first * lanes(work), end * lanes(work), lanes(work)):
        n = tanh(load(work, z + j))
        value = fma(n - load(work, h_prev + j), LEAK, load(work, h_prev + j))
        store(tape, tape0 + j, n)
        store(work, h + j, value)
        store(track, track_next + j, value)


@inlined
def leaky_output(first, end, tape, tape0, track, track0, work, h):
    copy_row(track, track0 + first * lanes(work), work, h + first * lanes(work), (end - first) * lanes(work))


@inlined
def leaky_backward(first, end, tape, tape0, track, track_prev, track_next, work, dh, dh_prev, dtrack, dtrack0,
                   h, dz, dm, own, own0, bounds):  # fmt: skip
    for j in range(first * lanes(work), end * lanes(work), lanes(work)):
        n, dh_t = load(tape, tape0 + j), load(work, dh + j)
        store(work, h + j, load(track, track_next + j))
        store(work, dz + j, dh_t * LEAK * fma(negative(n), n, 1.0))
        store(work, dh_prev + j, fma(dh_t, 1 - LEAK, load(work, dh_prev + j)))


def in_numpy(x, h0, Wx, Wh, b):
    h = h0
    return np.stack([h := (1 - LEAK) * h + LEAK * np.tanh(b + row @ Wx + h @ Wh) for row in np.moveaxis(x, 1, 0)], 1)


@pytest.fixture(scope="module")
def cell():
    """The leaky integrator of reservoir computing."""
    row_functions = {"cell_forward": leaky_forward, "cell_output": leaky_output, "cell_backward": leaky_backward}
    kernels = passes_of("leaky", GATES=1, BIASES=1, KEPT=1, **row_functions)
    return Cell("leaky", ("h",), ("b",), ("h",), "h", ("n",), "", 0, 1, 0, *kernels)


@pytest.mark.slow
def test_cell__needs_no_more_than_its_description(rng, monkeypatch, cell):
    monkeypatch.setitem(cells, "leaky", cell)
    family = _recurrent.family(cell, type("LeakyCache", (RecurrentCache,), {"cell": cell}), rnnkernels.RNNState)
    x, h0, *weights = arguments = make_arguments(rng, 1, 3, 9, 4, 21, np.float64)
    h, cache = result = _recurrent.forward(family, x, (h0,), *weights[:2], weights[2:], True, None)
    assert_all_close([h, result.state.h], [in_numpy(*arguments), h[:, -1]], np.float64)
    dh = rng.standard_normal(h.shape)
    expected = [numerical_gradient(lambda: in_numpy(*arguments), a, dh) for a in arguments]
    for got, want in zip(_recurrent.backward(family, dh, cache, None, None), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)
    packed = PackedWeights(cell, *weights[:2], {"b": weights[2]})
    again, _ = _recurrent.forward(family, x, (h0,), *weights[:2], weights[2:], False, None, packed.forward)
    assert_same_bits(again, h)
    assert rnnkernels.explain(3, 9, 4, 21, cell="leaky", dtype="float64").flops == 2 * 3 * 9 * 21 * (4 + 21)
    with pytest.raises(ValueError, match="`Wx` must have shape"):
        _recurrent.forward(family, x, (h0,), weights[0].T, weights[1], weights[2:], True, None)
