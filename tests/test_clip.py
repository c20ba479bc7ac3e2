"""A bound of what goes into the activations of gates, of every cell: against the reference, and bits."""

import copy
import pickle

import numpy as np
import pytest
from helpers import DTYPES, assert_all_close, assert_same_bits, exact, force_packing, make_arguments, numerical_gradient

import rnnkernels
from rnnkernels import nopython, reference
from rnnkernels.kernels.cell import cells

CLIP = 0.6
SIZES = [(3, 2, 2, 1), (2, 3, 4, 5), (5, 4, 16, 15), (13, 30, 9, 41)]

keys = pytest.mark.parametrize("key", cells)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


class Problem:
    """Arguments of a cell whose gates are clipped in about half of the lanes, and its functions."""

    def __init__(self, rng, key, N, T, D, H, dtype=np.float64):
        self.cell = cell = cells[key]
        self.N, self.T, self.H = N, T, H
        self.arguments = make_arguments(rng, len(cell.gates), N, T, D, H, dtype)
        self.options = {name: value for name, value in cell.options if name != "cell_clip"}
        if cell.own:
            self.options["peepholes"] = rng.standard_normal((len(cell.gates) - 1, H)).astype(dtype)
        if cell.projected:
            self.options["projection"] = (rng.standard_normal((H, H)) / np.sqrt(H)).astype(dtype)
        if cell.name == "gru":
            self.options["bh"] = rng.standard_normal(3 * H).astype(dtype)
        self.dh = rng.standard_normal((N, T, H)).astype(dtype)

    def forward(self, module=rnnkernels, clip=CLIP, **others):
        options = self.options
        arguments = self.arguments
        if module is reference:
            arguments = exact(arguments)
            options = {k: exact([v])[0] if isinstance(v, np.ndarray) else v for k, v in options.items()}
        return getattr(module, f"{self.cell.name}_forward")(*arguments, clip=clip, **options, **others)

    def backward(self, cache, module=rnnkernels, **others):
        dh = self.dh if module is rnnkernels else exact([self.dh])[0]
        return getattr(module, f"{self.cell.name}_backward")(dh, cache, **others)

    def layer(self, clip=CLIP):
        _, _, Wx, Wh, b = self.arguments
        return getattr(rnnkernels, self.cell.name.upper())(Wx, Wh, b, clip=clip, **self.options)


def everything(result, gradients):
    """Hidden states, the last state, and all gradients there are."""
    return [result.h, *result.state, *gradients, *[value for _, value in sorted(vars(gradients).items())]]


@pytest.mark.parametrize("packed", [False, True])
@dtypes
@pytest.mark.parametrize("sizes", SIZES)
@keys
def test_sequence__matches_reference(rng, key, sizes, dtype, packed, monkeypatch):
    force_packing(monkeypatch, packed)
    problem = Problem(rng, key, *sizes, dtype)
    result, expected = problem.forward(), problem.forward(reference)
    got = everything(result, problem.backward(result.cache))
    assert_all_close(got, everything(expected, problem.backward(expected.cache, reference)), dtype)
    free = expected.cache[-1]
    assert sizes == SIZES[0] or 0.05 < np.mean(free) < 0.95


@keys
def test_gradients__match_finite_differences(rng, key):
    near = True
    while near:  # no difference may reach over a bound
        problem = Problem(rng, key, 2, 3, 3, 5)
        less, more = (problem.forward(reference, clip=factor * CLIP).cache[-1] for factor in (0.995, 1.005))
        near = not np.array_equal(less, more)
    gradients = problem.backward(problem.forward().cache)
    named = {"peepholes": "dpeepholes", "projection": "dprojection", "bh": "dbh"}
    pairs = list(zip(problem.arguments, gradients, strict=True))
    pairs += [(value, getattr(gradients, named[name])) for name, value in problem.options.items() if name in named]
    for parameter, gradient in pairs:
        numeric = numerical_gradient(lambda: problem.forward().h, parameter, problem.dh, step=1e-5)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)


@keys
def test_steps__have_the_bits_of_the_sequence_and_match_reference(rng, key):
    problem = Problem(rng, key, 3, 1, 4, 19, np.float32)
    x, h0, *weights = problem.arguments
    states = [h0, *[np.ones((3, 19), np.float32)] * (len(problem.cell.states) - 1)]
    name = f"{problem.cell.name}_step"
    *after, cache = getattr(rnnkernels, f"{name}_forward")(x[:, 0], *states, *weights, clip=CLIP, **problem.options)
    c0 = {"c0": states[1]} if len(states) > 1 else {}
    for got, want in zip(after, problem.forward(**c0).state, strict=True):
        assert_same_bits(got, want)
    upstream = [rng.standard_normal((3, 19)).astype(np.float32) for _ in states]
    got = getattr(rnnkernels, f"{name}_backward")(*upstream, cache)
    options = {k: exact([v])[0] if isinstance(v, np.ndarray) else v for k, v in problem.options.items()}
    *_, tape = getattr(reference, f"{name}_forward")(*exact([x[:, 0], *states, *weights]), clip=CLIP, **options)
    assert_all_close(got, getattr(reference, f"{name}_backward")(*exact(upstream), tape), np.float32)


@keys
def test_bits__depend_on_nothing_but_the_sequence(rng, key, monkeypatch):
    problem = Problem(rng, key, 13, 20, 5, 35, np.float32)
    x, h0, *_ = problem.arguments
    result = problem.forward()
    want = everything(result, problem.backward(result.cache))
    for threads in (2, 3):
        other = problem.forward(num_threads=threads)
        for got, bits in zip(everything(other, problem.backward(other.cache, num_threads=threads)), want, strict=True):
            assert_same_bits(got, bits)
    little = problem.forward(checkpoint_every=7)
    for got, bits in zip(everything(little, problem.backward(little.cache)), want, strict=True):
        assert_same_bits(got, bits)
    reloaded = pickle.loads(pickle.dumps(result.cache))
    for got, bits in zip(problem.backward(reloaded), want[1 + len(result.state) :], strict=False):
        assert_same_bits(got, bits)
    for packed in (False, True):
        force_packing(monkeypatch, packed)
        assert_same_bits(problem.forward(keep_cache=False).h, result.h)
    monkeypatch.undo()

    layer = problem.layer()
    of_layer = layer.forward(x, h0)
    assert_same_bits(of_layer.h, result.h)
    dx, gradients = layer.backward(problem.dh, of_layer.cache)
    first = 1 + len(result.state)
    assert_same_bits(dx, want[first])
    assert_same_bits(gradients["Wx"], want[first + 2])
    for stream in (layer.stream(h0), copy.deepcopy(layer.stream(h0)), copy.deepcopy(layer).stream(h0)):
        assert_same_bits(stream.steps(x), result.h)
    opened = layer.stream(h0)
    out = np.empty_like(result.h)
    nopython.advance(opened.nopython(), x, out)
    assert_same_bits(out, result.h)


@keys
def test_small_calls__have_the_bits_of_the_first_one(rng, key):
    problem = Problem(rng, key, 2, 3, 4, 9, np.float32)
    plain = problem.forward(clip=None)
    of_plain = everything(plain, problem.backward(plain.cache))
    results = []
    for clip in (0.6, 0.3, 0.6, 0.3):
        result = problem.forward(clip=clip)
        assert result.cache.clip == clip
        results.append(everything(result, problem.backward(result.cache)))
    for first, again in zip(results[:2], results[2:], strict=True):
        for got, want in zip(again, first, strict=True):
            assert_same_bits(got, want)
    for one, other in ((results[0], results[1]), (results[0], of_plain)):
        assert not np.array_equal(one[0], other[0])
    again = problem.forward(clip=None)
    for got, want in zip(everything(again, problem.backward(again.cache)), of_plain, strict=True):
        assert_same_bits(got, want)


@keys
@dtypes
def test_clip__that_nothing_exceeds_changes_no_bit(rng, key, dtype):
    problem = Problem(rng, key, 3, 5, 4, 17, dtype)
    want = problem.forward(clip=None)
    for clip in (np.inf, 64.0, 1000):
        assert_same_bits(problem.forward(clip=clip).h, want.h)


def test_cache__decides_for_which_clip_gradients_are(rng):
    problem = Problem(rng, "lstm", 3, 5, 4, 17)
    for clip, other in ((CLIP, None), (None, CLIP), (CLIP, 0.1)):
        result = problem.forward(clip=clip)
        dx, *_ = problem.backward(result.cache)
        assert_same_bits(problem.layer(other).backward(problem.dh, result.cache)[0], dx)


def test_stack__clips_all_of_its_layers(rng, tmp_path):
    stack = rnnkernels.GRU.create(4, 6, num_layers=2, bidirectional=True, clip=0.2, dtype=np.float64, rng=rng)
    x = 3 * rng.standard_normal((3, 5, 4))
    want = stack.forward(x).h
    again = rnnkernels.GRU.from_parameters(stack.parameters, clip=0.2)
    assert_same_bits(again.forward(x).h, want)
    assert "clip=0.2" in repr(stack)
    assert not np.array_equal(rnnkernels.GRU.from_parameters(stack.parameters).forward(x).h, want)
    pytest.importorskip("safetensors")
    stack.save(tmp_path / "stack.safetensors")
    assert_same_bits(rnnkernels.GRU.load(tmp_path / "stack.safetensors").forward(x).h, want)


def test_nan__stays_nan_and_gradients_of_it(rng):
    problem = Problem(rng, "lstm", 2, 2, 3, 4)
    problem.arguments[0][0, 0, 0] = np.nan
    result = problem.forward()
    assert np.isnan(result.h[0]).all()
    assert not np.isnan(result.h[1]).any()
    assert np.isnan(problem.backward(result.cache)[0][0, 0]).all()


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize(
    ("clip", "error"), [(0, ValueError), (-1.0, ValueError), (np.nan, ValueError), ("1", TypeError), (True, TypeError)]
)
def test_errors__name_the_argument(rng, name, clip, error):
    problem = Problem(rng, name, 2, 2, 3, 4)
    with pytest.raises(error, match="`clip` must be"):
        problem.forward(clip=clip)
    with pytest.raises(error, match="`clip` must be"):
        problem.layer(clip)


def test_cache__tells_its_clip_and_a_wrong_one_is_refused(rng):
    problem = Problem(rng, "gru", 2, 2, 3, 4)
    cache = problem.forward().cache
    assert "clip=0.6" in repr(cache)
    cache.clip = "much"
    with pytest.raises(TypeError, match="`clip` must be"):
        problem.backward(cache)
