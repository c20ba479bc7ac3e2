"""Sequences of different length, in reverse, that begin anew, and of which only the last state is wanted."""

import itertools

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


def one_by_one(cell, args, others, dh, dstate, lengths, reverse=False, resets=None):
    """The same in plain NumPy: each stretch by itself, from the first to the last and back again."""
    forward, backward = function(reference, cell, "forward"), function(reference, cell, "backward")
    x, h0, *weights = exact(args)
    N, T, H = *x.shape[:2], h0.shape[1]
    names = list(others)
    found = {"h": np.zeros((N, T, H), x.dtype), "dx": np.zeros_like(x), "dh0": np.zeros_like(h0)}
    found |= {f"d{name}": np.zeros_like(h0) for name in names}
    found |= {"state": np.zeros((1 + len(names), N, H), x.dtype)}
    sums = None
    for n in range(N):
        steps = np.arange(lengths[n])[:: -1 if reverse else 1]
        cuts = [0, *[p for p, t in enumerate(steps) if resets is not None and resets[n, t] and p > 0], len(steps)]
        begins_anew = bool(len(steps) and resets is not None and resets[n, steps[0]])
        state = [h0[n : n + 1], *(exact([others[name]])[0][n : n + 1] for name in names)]
        tapes = []
        for k, (begin, end) in enumerate(itertools.pairwise(cuts)):
            if k > 0 or begins_anew:
                state = [np.zeros_like(part) for part in state]
            rows = steps[begin:end]
            result = forward(x[n : n + 1, rows], state[0], *weights, **dict(zip(names, state[1:], strict=True)))
            found["h"][n, rows] = result[0][0]
            tapes.append((rows, result[1]))
            state = list(result.state)
        for part, value in zip(found["state"], state, strict=True):
            part[n] = value[0]
        arriving = tuple(exact([gradient])[0][n : n + 1] for gradient in dstate)
        for k, (rows, tape) in reversed(list(enumerate(tapes))):
            gradients = backward(exact([dh])[0][n : n + 1, rows], tape, dstate=arriving)
            found["dx"][n, rows] = gradients[0][0]
            parts = [gradients[2], gradients[3], gradients[4], *([gradients.dbh] if "gru" in cell else [])]
            sums = parts if sums is None else [a + b for a, b in zip(sums, parts, strict=True)]
            first = (gradients[1], *(getattr(gradients, f"d{name}") for name in names))
            arriving = tuple(np.zeros_like(part) for part in first)
            if k == 0 and not begins_anew:
                found["dh0"][n] = first[0][0]
                for name, part in zip(names, first[1:], strict=True):
                    found[f"d{name}"][n] = part[0]
    return found, sums


def assert_agrees(cell, args, others, dh, dstate, dtype, lengths=None, **options):
    forward, backward = functions(cell)
    N, T, _ = dh.shape
    whole = np.full(N, T) if lengths is None else lengths
    expected, sums = one_by_one(cell, args, others, dh, dstate, whole, **options)
    x = args[0].copy()
    x[np.arange(T) >= np.asarray(whole)[:, np.newaxis]] = np.nan
    dh = dh.copy()
    dh[np.arange(T) >= np.asarray(whole)[:, np.newaxis]] = np.nan
    result = forward(x, *args[1:], **others, lengths=lengths, **options)
    assert_close(result.h, expected["h"], dtype)
    assert_all_close(result.state, expected["state"], dtype)
    gradients = backward(dh, result.cache, dstate=dstate)
    assert_close(gradients.dx, expected["dx"], dtype)
    for name in ("h0", *others):
        assert_close(getattr(gradients, f"d{name}"), expected[f"d{name}"], dtype)
    got = [*gradients[2:], *([gradients.dbh] if "gru" in cell else [])]
    assert_all_close(got, sums, dtype)
    inference = forward(x, *args[1:], **others, lengths=lengths, **options, keep_cache=False)
    assert_same_bits(inference.h, result.h)
    for got, want in zip(inference.state, result.state, strict=True):
        assert_same_bits(got, want)
    last = forward(x, *args[1:], **others, lengths=lengths, **options, outputs="last")
    assert_same_bits(last.h, result.state.h)
    return result, gradients


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
