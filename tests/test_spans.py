"""Sequences of different length, in reverse, that begin anew, and of which only the last state is wanted."""

import numpy as np
import pytest
from helpers import DTYPES, GATES, assert_all_close, assert_close, assert_same_bits, exact, function, make_arguments

import rnnkernels
from rnnkernels import reference
from rnnkernels.kernels.cell import cells

SIZES = [(1, 1, 1, 1), (5, 7, 3, 9), (13, 30, 9, 41), (40, 12, 5, 17), (3, 300, 4, 6)]


def functions(cell):
    return function(rnnkernels, cell, "forward"), function(rnnkernels, cell, "backward")


def states_of(rng, cell, N, H, dtype):
    """Initial states beside h0, and a gradient of each last state."""
    names = cells[cell].states
    others = {f"{name}0": rng.standard_normal((N, H)).astype(dtype) for name in names[1:]}
    return others, tuple(rng.standard_normal((N, H)).astype(dtype) for _ in names)


def assert_agrees(cell, args, others, dh, dstate, dtype, lengths=None, **options):
    """Compare everything with the reference; and inference, and the last states alone, bit by bit with that."""
    forward, backward = functions(cell)
    result_of, back = function(reference, cell, "forward"), function(reference, cell, "backward")
    names = dict(zip(others, exact(others.values()), strict=True))
    expected = result_of(*exact(args), **names, lengths=lengths, **options)
    wanted = back(*exact([dh]), expected.cache, dstate=tuple(exact(dstate)))
    x, dh = args[0].copy(), dh.copy()
    if lengths is not None:
        padding = np.arange(x.shape[1]) >= np.asarray(lengths)[:, np.newaxis]
        x[padding] = dh[padding] = np.nan
    result = forward(x, *args[1:], **others, lengths=lengths, **options)
    assert_close(result.h, expected.h, dtype)
    assert_all_close(result.state, expected.state, dtype)
    gradients = backward(dh, result.cache, dstate=dstate)
    assert_all_close(gradients, wanted, dtype)
    assert vars(gradients).keys() >= {f"d{name}" for name in others}
    for name, gradient in vars(gradients).items():
        assert_close(gradient, getattr(wanted, name), dtype)
    for others_too in ({"keep_cache": False}, {"outputs": "last"}):
        again = forward(x, *args[1:], **others, lengths=lengths, **options, **others_too)
        assert_same_bits(again.h, result.state.h if "outputs" in others_too else result.h)
        for got, want in zip(again.state, result.state, strict=True):
            assert_same_bits(got, want)
    only_last = np.ones_like(result.state.h)
    dx, *_ = backward(only_last, again.cache)
    assert_close(dx, back(only_last.astype(np.longdouble), expected.cache).dx, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("cell", GATES)
def test_lengths__agree_with_sequences_one_by_one(rng, cell, sizes, reverse, dtype):
    N, T, _, H = sizes
    args = make_arguments(rng, GATES[cell], *sizes, dtype)
    others, dstate = states_of(rng, cell, N, H, dtype)
    dh = rng.standard_normal((N, T, H)).astype(dtype)
    lengths = rng.integers(0, T + 1, N)
    lengths[rng.integers(N)] = T
    assert_agrees(cell, args, others, dh, dstate, dtype, lengths, reverse=reverse)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("cell", GATES)
def test_resets__agree_with_stretches_one_by_one(rng, cell, sizes, with_lengths, reverse, dtype):
    N, T, _, H = sizes
    args = make_arguments(rng, GATES[cell], *sizes, dtype)
    others, dstate = states_of(rng, cell, N, H, dtype)
    dh = rng.standard_normal((N, T, H)).astype(dtype)
    lengths = rng.integers(0, T + 1, N) if with_lengths else None
    resets = rng.random((N, T)) < 0.15
    if with_lengths and not lengths.any():
        lengths[0] = 1
    assert_agrees(cell, args, others, dh, dstate, dtype, lengths, reverse=reverse, resets=resets)
