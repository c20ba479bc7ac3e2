"""Stacks of layers, in one direction and two: composed of single layers, and what PyTorch computes."""

import copy
import dataclasses
import itertools
import os
import pickle
import sys
import threading
import time

import numpy as np
import pytest
from helpers import DTYPES, GATES, assert_same_bits, function, kind, numerical_gradient

import rnnkernels
from rnnkernels import _pipeline, _stack, _threads, _tuning
from rnnkernels.kernels.cell import cells

KINDS = {cell: kind(rnnkernels, cell) for cell in GATES}
SHAPES = [(1, True), (2, False), (2, True), (3, False)]  # layers, and whether there are two directions
BLOCKS = {"rnn": [0], "lstm": [0, 1, 3, 2], "gru": [0, 1, 2]}  # PyTorch's gates are i, f, g, o; ours i, f, o, g
NAMES = {"Wx": "weight_ih", "Wh": "weight_hh", "b": "bias_ih", "bh": "bias_hh"}


def class_of(cell):
    return getattr(rnnkernels, cells[cell].name.upper())


def make_stack(rng, cell, D=3, H=5, layers=2, both=False, dtype=np.float64, **options):
    given = {"num_layers": layers, "bidirectional": both, "dtype": dtype, "rng": rng, **dict(cells[cell].options)}
    return class_of(cell).create(D, H, **given, **options)


def make_problem(rng, layer, N=4, T=6, D=3, H=5):
    """Inputs, first states by name, gradients of the outputs and of the last states."""
    directions = 2 if layer.bidirectional else 1
    names = [f"{name}0" for name in layer._family.cell.states]
    states = {name: rng.standard_normal((layer.num_layers * directions, N, H)).astype(layer.dtype) for name in names}
    x, dh = (rng.standard_normal((N, T, size)).astype(layer.dtype) for size in (D, directions * H))
    dstate = tuple(rng.standard_normal(state.shape).astype(layer.dtype) for state in states.values())
    return x, states, dh, dstate


def compose(cell, layer, x, states, masks=None):
    """Outputs and last states by the functions, one layer and one direction after the other."""
    forward = function(rnnkernels, cell, "forward")
    directions = [("", 1), ("_reverse", -1)] if layer.bidirectional else [("", 1)]
    last, part = [], itertools.count()
    for number in range(layer.num_layers):
        number_end = f"_l{number}" if layer.num_layers > 1 else ""
        outputs = []
        for end, order in directions:
            k = next(part)
            own = {name: layer.parameters[f"{name}{number_end}{end}"] for name in ("Wx", "Wh", *cells[cell].biases)}
            first = {name: state[k] for name, state in states.items()}
            result = forward(np.ascontiguousarray(x[:, ::order]), **first, **own)
            outputs.append(result.h[:, ::order])
            last.append(result.state)
        x = np.concatenate(outputs, axis=2)
        if masks and number < layer.num_layers - 1:
            x = x * masks[number] * x.dtype.type(1 / (1 - layer.dropout))
    return x, [np.stack(each) for each in zip(*last, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layers", "both"), SHAPES)
@pytest.mark.parametrize("cell", KINDS)
def test_stack__has_the_bits_of_its_layers_one_by_one(rng, cell, layers, both, dtype):
    layer = make_stack(rng, cell, layers=layers, both=both, dtype=dtype)
    x, states, dh, dstate = make_problem(rng, layer)
    h, last = compose(cell, layer, x, states)
    result = layer.forward(x, **states)
    for got, want in zip((result.h, *result.state), (h, *last), strict=True):
        assert_same_bits(got, want)
    assert_same_bits(layer.forward(x, **states, keep_cache=False).h, h)
    assert layer.forward(x, keep_cache=False).cache is None
    gradients = layer.backward(dh, result.cache, dstate=dstate)
    assert list(gradients.gradients) == list(layer.parameters)
    for name, values in layer.parameters.items():
        assert gradients.gradients[name].shape == values.shape
        assert gradients.gradients[name].dtype == dtype
    assert gradients.dh0.shape == states["h0"].shape


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("cell", KINDS)
def test_dropout__acts_between_layers_and_only_with_a_generator(rng, cell, variational):
    layer = make_stack(rng, cell, layers=3, dropout=0.4, variational=variational)
    x, states, *_ = make_problem(rng, layer, T=50)
    assert_same_bits(layer.forward(x, **states).h, compose(cell, layer, x, states)[0])
    result = layer.forward(x, **states, rng=np.random.default_rng(7))
    masks = result.cache.masks
    assert_same_bits(result.h, compose(cell, layer, x, states, masks)[0])
    assert [mask.shape for mask in masks] == [(4, 1 if variational else 50, 5)] * 2
    assert (masks[0] != masks[1]).any()
    if not variational:
        assert abs(np.mean(masks) - 0.6) < 0.06
    again = layer.forward(x, **states, rng=np.random.default_rng(7), keep_cache=False)
    assert_same_bits(again.h, result.h)
    assert (layer.forward(x, **states, rng=np.random.default_rng(8)).h != result.h).any()


def test_dropout__draws_the_same_for_both_dtypes_and_keeps_the_dtype(rng):
    stacks = [make_stack(np.random.default_rng(1), "gru", dropout=0.5, dtype=dtype) for dtype in DTYPES]
    x = rng.standard_normal((2, 6, 3)).astype(np.float32)
    results = [stack.forward(x, rng=np.random.default_rng(2)) for stack in stacks]
    assert [result.h.dtype for result in results] == DTYPES
    np.testing.assert_array_equal(results[0].cache.masks[0], results[1].cache.masks[0])


@pytest.mark.parametrize(
    ("cell", "layers", "both", "variational"), [(cell, 2, cell == "rnn", cell != "lstm") for cell in KINDS]
)
def test_gradients__with_dropout_are_those_of_finite_differences(rng, cell, layers, both, variational):
    layer = make_stack(rng, cell, 2, 3, layers=layers, both=both, dropout=0.4, variational=variational)
    x, states, dh, dstate = make_problem(rng, layer, N=2, T=3, D=2, H=3)
    parameters = {name: values.copy() for name, values in layer.parameters.items()}
    options = {"dropout": 0.4, "variational": variational, **dict(cells[cell].options)}

    def run():
        changed = class_of(cell).from_parameters(parameters, **options)
        return changed.forward(x, **states, rng=np.random.default_rng(3))

    def loss():
        result = run()
        return np.sum(result.h * dh) + sum(
            np.sum(state * gradient) for state, gradient in zip(result.state, dstate, strict=True)
        )

    result = run()
    assert not all(mask.all() for mask in result.cache.masks)
    found = layer.backward(dh, result.cache, dstate=dstate)
    wanted = {"x": (found.dx, x)}
    wanted |= {name: (found.gradients[name], values) for name, values in parameters.items()}
    wanted |= {name: (getattr(found, f"d{name}"), state) for name, state in states.items()}
    for name, (got, argument) in wanted.items():
        want = numerical_gradient(loss, argument, np.ones(()))
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("first", ["given", "broadcast", "zero"])
@pytest.mark.parametrize(("layers", "both"), [(1, False), *SHAPES, (3, True)])
@pytest.mark.parametrize("cell", BLOCKS)
def test_stack__and_all_its_gradients_are_those_of_torch(rng, cell, layers, both, first):
    torch = pytest.importorskip("torch")
    layer = make_stack(rng, cell, layers=layers, both=both)
    x, states, dh, dstate = make_problem(rng, layer)
    count = len(states["h0"])
    if first == "broadcast":
        states = {name: rng.standard_normal((count, 1, 5)) for name in states}
    of_torch = {name: torch.tensor(values, requires_grad=True) for name, values in {"x": x, **states}.items()}
    network = getattr(torch.nn, cell.upper())(3, 5, layers, batch_first=True, bidirectional=both).double()
    columns = np.concatenate([np.arange(block * 5, (block + 1) * 5) for block in BLOCKS[cell]])

    def name_in_torch(name):
        plain, _, end = name.partition("_")
        end = end if end.startswith("l") else f"l0_{end}".rstrip("_")
        return f"{NAMES[plain]}_{end}"

    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()  # the second bias of cells that have one
        for name, values in layer.parameters.items():
            network.get_parameter(name_in_torch(name)).copy_(torch.from_numpy(values[..., columns].T.copy()))
    wholes = [of_torch[name].expand(count, 4, 5).contiguous() for name in states]
    arguments = [] if first == "zero" else [tuple(wholes) if cell == "lstm" else wholes[0]]
    h, last = network(of_torch["x"], *arguments)
    last = last if cell == "lstm" else (last,)

    given = {} if first == "zero" else states
    if layers == 1 and not both:  # a single layer has no axis for layers
        given, dstate = ({name: state[0] for name, state in given.items()}, tuple(each[0] for each in dstate))
        last = tuple(each[0] for each in last)
    result = layer.forward(x, **given)
    for got, want in zip((result.h, *result.state), (h, *last), strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-10, atol=1e-12)
    torch.autograd.backward([h, *last], [torch.from_numpy(d) for d in (dh, *dstate)])
    found = layer.backward(dh, result.cache, dstate=dstate)
    np.testing.assert_allclose(found.dx, of_torch["x"].grad.numpy(), rtol=1e-10, atol=1e-12)
    for name, state in given.items():
        want = of_torch[name].grad.numpy().reshape(state.shape)
        np.testing.assert_allclose(getattr(found, f"d{name}"), want, rtol=1e-10, atol=1e-12, err_msg=name)
    for name, got in found.gradients.items():
        want = network.get_parameter(name_in_torch(name)).grad.numpy().T[..., columns]
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("cell", KINDS)
def test_gradients__of_the_last_state_alone_or_of_the_outputs_alone_add_up(rng, cell):
    layer = make_stack(rng, cell, both=True)
    x, states, dh, dstate = make_problem(rng, layer)
    result = layer.forward(x, **states)
    whole = layer.backward(dh, result.cache, dstate=dstate)
    pieces = layer.backward(dh, result.cache), layer.backward(None, result.cache, dstate=dstate)
    for name, want in {"": whole.dx, **whole.gradients}.items():
        got = sum(piece.gradients[name] if name else piece.dx for piece in pieces)
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (5,), (4, 5), (2, 1, 5), (1, 4, 5), (2, 4, 5)])
def test_first_state__broadcasts_and_its_gradient_has_its_shape(rng, shape):
    layer = make_stack(rng, "lstm")
    x, _, dh, _ = make_problem(rng, layer)
    given = rng.standard_normal(shape)
    whole = np.ascontiguousarray(np.broadcast_to(given, (2, 4, 5)))
    result, want = layer.forward(x, given, c0=given), layer.forward(x, whole, c0=whole)
    assert_same_bits(result.h, want.h)
    gradients, whole_gradients = layer.backward(dh, result.cache), layer.backward(dh, want.cache)
    for name in ("dh0", "dc0"):
        got, every = getattr(gradients, name), getattr(whole_gradients, name)
        assert np.shape(got) == shape
        kept = [axis for axis, length in enumerate((1,) * (3 - len(shape)) + shape) if length > 1]
        want_sum = every.sum(axis=tuple(axis for axis in range(3) if axis not in kept))
        np.testing.assert_allclose(np.reshape(got, want_sum.shape), want_sum, rtol=1e-12, atol=1e-14)


def thread_name():
    """Without the number of one of the package, of which tests before may have left several."""
    return threading.current_thread().name.partition("-")[0]


@pytest.fixture
def side_by_side(monkeypatch):
    """Names of the threads of each pair that ran side by side; whoever is first waits for the other."""
    names = []

    def run_and_note(first, second):
        here, both = [], threading.Barrier(2, timeout=60)
        names.append(here)

        def noting(work):
            here.append(thread_name())
            both.wait()
            return work()

        return _threads.side_by_side(lambda: noting(first), lambda: noting(second))

    for module in (_stack, _pipeline):
        monkeypatch.setattr(module, "side_by_side", run_and_note)
    return names


def results_of(layer, x, states, dh, dstate, num_threads, outputs="all", seed=None):
    """All that a stack computes, forward without a cache and with one, and backward."""

    def run(**options):
        rng = None if seed is None else np.random.default_rng(seed)
        return layer.forward(x, **states, rng=rng, outputs=outputs, num_threads=num_threads, **options)

    alone, result = run(keep_cache=False), run()
    found = layer.backward(dh, result.cache, dstate=dstate, num_threads=num_threads)
    first = [getattr(found, f"d{name}") for name in states]
    masks = [mask for mask in result.cache.masks if mask is not None]
    return [alone.h, *alone.state, result.h, *result.state, found.dx, *first, *found.gradients.values(), *masks]


@pytest.mark.parametrize(("T", "side"), [(4, False), (40, True)])
@pytest.mark.parametrize("cell", KINDS)
def test_directions__side_by_side_have_the_same_bits(rng, monkeypatch, side_by_side, cell, T, side):
    monkeypatch.setattr(_threads, "THREAD_FLOPS", 1e5 if side else 1e9)
    layer = make_stack(rng, cell, D=20, H=17, both=True, dtype=np.float32)
    problem = make_problem(rng, layer, N=3, T=T, D=20, H=17)
    for one, two in zip(*(results_of(layer, *problem, num_threads) for num_threads in (1, 2)), strict=True):
        assert_same_bits(two, one)
    main = threading.current_thread().name
    assert [sorted(pair) for pair in side_by_side] == [sorted([main, "rnnkernels"])] * (6 if side else 0)


def test_directions__that_gain_nothing_by_two_threads_run_in_turn_for_a_while(rng, monkeypatch, side_by_side):
    monkeypatch.setattr(_threads, "THREAD_FLOPS", 1.0)
    monkeypatch.setattr(_threads, "MOST_PACES", 1024)
    monkeypatch.setattr(_threads, "_paces", {})
    monkeypatch.setattr(_threads, "WORTH", 1e9)
    layer = make_stack(rng, "gru", layers=1, both=True)
    x, *_ = make_problem(rng, layer)
    for _ in range(15):
        layer.forward(x, num_threads=2)
    assert 2 <= len(side_by_side) < 10
    count = len(side_by_side)
    for _ in range(3):  # of calls whose lengths differ nothing is learnt
        layer.forward(x, lengths=[6, 5, 3, 1], num_threads=2)
    assert len(side_by_side) == count + 3


def test_side_by_side__runs_in_turn_where_no_thread_can_start(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_threads, "_pool", _threads._Pool())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert _threads.side_by_side(lambda: 1, lambda: 2) == [1, 2]
    assert _threads._pool.queue.empty()


def test_side_by_side__does_not_wait_for_a_thread_that_is_busy(monkeypatch):
    monkeypatch.setattr(_threads, "_pool", _threads._Pool())
    busy = threading.Event()
    _threads._pool.queue.put(busy.wait)
    assert _threads.side_by_side(lambda: 1, threading.get_ident) == [1, threading.get_ident()]
    busy.set()


def test_side_by_side__an_error_in_either_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        _threads.side_by_side(lambda: 1, lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        _threads.side_by_side(lambda: 1 // 0, lambda: 1)
    assert _threads.side_by_side(lambda: 1, lambda: 2) == [1, 2]


@pytest.fixture
def overlapping(monkeypatch, side_by_side):
    """A function that lets all stacks overlap that can, in many blocks, or none; names as of `side_by_side`."""
    monkeypatch.setattr(_tuning, "OVERLAP_GAIN", 0)
    monkeypatch.setattr(_tuning, "OVERLAP_BLOCK_FLOPS", 1)
    monkeypatch.setattr(_tuning, "BACKWARD_CHUNK_ROWS", 12)
    monkeypatch.setattr(_threads, "THREAD_FLOPS", 1e-3)

    def overlap(wanted):
        monkeypatch.setattr(_tuning, "OVERLAP_FLOPS", 0 if wanted else 1e99)
        return side_by_side

    monkeypatch.setattr(_tuning, "THREAD_ROWS", 1000)
    return overlap


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs", ["all", "last"])
@pytest.mark.parametrize("dropout", [None, "each step", "variational"])
@pytest.mark.parametrize(("layers", "N", "T"), [(2, 1, 100), (3, 3, 41), (5, 4, 9), (2, 2, 1)])
@pytest.mark.parametrize("cell", KINDS)
def test_layers__that_overlap_have_the_same_bits(rng, overlapping, cell, layers, N, T, dropout, outputs, dtype):
    options = {"dropout": 0.3, "variational": dropout == "variational"} if dropout else {}
    layer = make_stack(rng, cell, layers=layers, dtype=dtype, **options)
    x, states, dh, dstate = make_problem(rng, layer, N, T)
    results = []
    for wanted in (False, True):
        names = overlapping(wanted)
        assert not names
        given = dh if outputs == "all" else dh[:, -1]
        results.append(results_of(layer, x, states, given, dstate, 2, outputs, 7 if dropout else None))
    assert [sorted(pair) for pair in names] == [sorted([threading.current_thread().name, "rnnkernels"])] * 3
    for one, two in zip(*results, strict=True):
        assert_same_bits(two, one)


def test_layers__with_projections_that_overlap_have_the_same_bits(rng, overlapping):
    layer = rnnkernels.LSTM.create(4, 19, num_layers=3, projection=6, rng=rng)
    x, dh = (rng.standard_normal((3, 41, width)).astype(np.float32) for width in (4, 6))
    results = []
    for wanted in (False, True):
        names = overlapping(wanted)
        results.append(results_of(layer, x, {}, dh, None, 2))
    assert len(names) == 3
    for one, two in zip(*results, strict=True):
        assert_same_bits(two, one)


def test_layers__that_overlap_go_over_many_segments(rng, monkeypatch, overlapping):
    layer = make_stack(rng, "lstm")
    problem = make_problem(rng, layer, T=60)
    results = []
    for wanted in (False, True):
        overlapping(wanted)
        for module in (_threads, _tuning):
            monkeypatch.setattr(module, "SEGMENT_FLOPS", 17 * 2 * 4 * 4 * 5 * 10)
        results.append(results_of(layer, *problem, 2))
    for one, two in zip(*results, strict=True):
        assert_same_bits(two, one)


def test_layers__overlap_only_where_that_is_asked_for_and_possible(rng, monkeypatch, overlapping):
    names = overlapping(True)
    layer = make_stack(rng, "gru", layers=3)
    x, states, dh, _ = make_problem(rng, layer, T=50)
    options = [{"num_threads": 1}, {"lengths": [50, 30, 20, 10]}, {"resets": np.zeros((4, 50), bool)}]
    options += [{"checkpoint_every": 10}, {"memory_budget": 100_000}]
    for option in options:
        threads = option.pop("num_threads", 2)
        result = layer.forward(x, **states, num_threads=threads, **option)
        if "resets" not in option:  # that ask for nothing
            layer.backward(dh, result.cache, num_threads=threads)
    with rnnkernels.profiling.profile():
        layer.backward(dh, layer.forward(x, num_threads=2).cache, num_threads=2)
    assert not names
    layer.forward(x, num_threads=2)
    assert len(names) == 1
    for name, value in (("THREAD_ROWS", 1), ("OVERLAP_STEP_FLOPS", 1), ("OVERLAP_GAIN", 2.5), ("OVERLAP_FLOPS", 1e9)):
        with monkeypatch.context() as here:
            here.setattr(_tuning, name, value)
            layer.forward(x, num_threads=2)
    assert len(names) == 1
    with _threads.Team(2):  # another call has the threads
        layer.forward(x, num_threads=2)
    assert len(names) == 1


def test_layers__that_gain_nothing_by_overlapping_run_in_turn_for_a_while(rng, monkeypatch, overlapping):
    monkeypatch.setattr(_threads, "MOST_PACES", 1024)
    monkeypatch.setattr(_threads, "_paces", {})
    monkeypatch.setattr(_threads, "WORTH", 1e9)
    names, layer = overlapping(True), make_stack(rng, "gru")
    x, *_ = make_problem(rng, layer)
    want = layer.forward(x, num_threads=1).h
    for _ in range(15):
        assert_same_bits(layer.forward(x, num_threads=2).h, want)
    assert 2 <= len(names) < 10


@pytest.mark.parametrize("where", ["MainThread", "rnnkernels"])
def test_layers__an_error_in_either_thread_ends_both(overlapping, where):
    overlapping(True)
    done = []

    def run(begin, end):
        done.append(thread_name())
        if done[-1] == where:
            raise KeyboardInterrupt
        time.sleep(1e-3)

    blocks = [(step, step + 1) for step in range(1000)]
    with pytest.raises(KeyboardInterrupt):
        _pipeline.run_passes([_pipeline.Pass(run, blocks, 0)] * 2)
    assert done.count(where) == 1
    count = len(done)
    time.sleep(0.02)
    assert len(done) <= count + 1
    _pipeline.run_passes([_pipeline.Pass(lambda begin, end: None, blocks, 0)] * 2)


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_passes__run_in_order_after_what_they_read(monkeypatch, rng, count, ahead):
    monkeypatch.setattr(_threads, "_pool", _threads._Pool())
    borders = [np.unique([0, *rng.integers(1, 40, 12), 40]) for _ in range(count)]
    done = [0] * count

    def pass_of(number):
        def run(begin, end):
            assert begin == done[number]
            assert number == 0 or done[number - 1] >= min(end + ahead, 40)
            time.sleep(1e-4)
            done[number] = end

        ends = [int(border) for border in borders[number]]
        return _pipeline.Pass(run, list(itertools.pairwise(ends)), ahead)

    _pipeline.run_passes([pass_of(number) for number in range(count)])
    assert done == [40] * count


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_directions__run_in_the_child_of_a_fork(rng, monkeypatch):
    monkeypatch.setattr(_threads, "THREAD_FLOPS", 1.0)
    layer = make_stack(rng, "rnn", both=True)
    x, *_ = make_problem(rng, layer)
    want = layer.forward(x, num_threads=2).h
    child = os.fork()
    if child == 0:
        os._exit(0 if (layer.forward(x, num_threads=2).h == want).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", KINDS)
def test_stream__of_a_stack_has_the_bits_of_the_whole(rng, cell, dtype):
    layer = make_stack(rng, cell, layers=3, dtype=dtype)
    x, states, *_ = make_problem(rng, layer, T=7)
    result = layer.forward(x, **states)
    stream, state = layer.stream(**states), type(result.state)(*states.values())
    for t in range(3):
        out = np.empty((4, 5), dtype)
        assert stream.step(x[:, t], out=out) is out
        state = layer.step(x[:, t], state)
        assert_same_bits(out, result.h[:, t])
        assert_same_bits(state.h[-1], out)
        for got, want in zip(state, stream.state, strict=True):
            assert_same_bits(got, want)
    twin = copy.deepcopy(stream)
    for each in (stream, twin, pickle.loads(pickle.dumps(twin))):
        assert_same_bits(each.steps(x[:, 3:]), result.h[:, 3:])
        for got, want in zip(each.state, result.state, strict=True):
            assert_same_bits(got, want)
    assert_same_bits(stream.h, result.state.h)
    assert stream.dtype == dtype
    streams = [layer.stream()._first, layer.stream()._first]
    assert np.shares_memory(streams[0]._weights, streams[1]._weights)


@pytest.mark.parametrize("cell", KINDS)
def test_stream__of_a_stack_begins_anew_in_some_rows(rng, cell):
    layer = make_stack(rng, cell)
    x, states, *_ = make_problem(rng, layer)
    stream = layer.stream(batch_size=4)
    stream.steps(x)
    before, mask = stream.state, np.array([True, False, True, False])
    stream.reset(**states, rows=mask)
    for got, kept, new in zip(stream.state, before, states.values(), strict=True):
        assert_same_bits(got[:, mask], new[:, mask])
        assert_same_bits(got[:, ~mask], kept[:, ~mask])
    stream.reset()
    assert not any(each.any() for each in stream.state)
    for wrong, error in (({"rows": [0, 1]}, TypeError), ({"h0": np.ones((3, 4, 5))}, ValueError)):
        with pytest.raises(error, match=r"`(rows|h0)` must"):
            stream.reset(**wrong)
    if cell != "lstm":
        with pytest.raises(TypeError, match="`c0` must be left out"):
            stream.reset(c0=0)


def test_stream__keeps_its_state_if_an_argument_is_wrong(rng):
    stream = make_stack(rng, "lstm").stream(batch_size=4)
    stream.step(np.ones((4, 3)))
    before = stream.state
    with pytest.raises(ValueError, match="`out` must have shape"):
        stream.step(np.ones((4, 3)), out=np.zeros((4, 4)))
    with pytest.raises(ValueError, match="`x` must have shape"):
        stream.steps(np.ones((4, 2, 4)))
    for got, want in zip(stream.state, before, strict=True):
        assert_same_bits(got, want)


def test_stream__of_two_directions_is_refused(rng):
    layer = make_stack(rng, "gru", both=True)
    for call in (layer.stream, lambda: layer.step(np.ones((4, 3)))):
        with pytest.raises(ValueError, match="needs a layer of one direction"):
            call()


def test_step__of_vectors_stays_one_of_vectors(rng):
    layer = make_stack(rng, "lstm")
    whole = layer.step(np.ones((1, 3)))
    state = layer.step(np.ones(3), (np.zeros((2, 5)), np.zeros((2, 5))))
    assert_same_bits(state.h, whole.h[:, 0])
    assert_same_bits(state.c, whole.c[:, 0])
    assert_same_bits(layer.step(np.ones((1, 3)), (0, 0)).h, whole.h)
    with pytest.raises(ValueError, match=r"`state` must be a tuple \(h, c\)"):
        layer.step(np.ones((1, 3)), (0,))
    with pytest.raises(ValueError, match=r"`state.h` must have shape \(num_layers, N, H\)"):
        layer.step(np.ones((1, 3)), (np.zeros((3, 1, 5)), None))


@pytest.mark.parametrize(("layers", "both"), [(1, False), *SHAPES])
@pytest.mark.parametrize("cell", KINDS)
def test_parameters__make_the_same_layer_and_are_replaced_by_name(rng, cell, layers, both):
    layer = make_stack(rng, cell, layers=layers, both=both)
    ends = [f"_l{number}" for number in range(layers)] if layers > 1 else [""]
    ends = [end + way for end in ends for way in (("", "_reverse") if both else ("",))]
    names = [name + end for end in ends for name in ("Wx", "Wh", *cells[cell].biases)]
    assert list(layer.parameters) == names
    assert all(name.isidentifier() for name in names)
    shuffled = {name: layer.parameters[name] for name in reversed(names)}
    other = class_of(cell).from_parameters(shuffled, **dict(cells[cell].options))
    assert repr(other) == repr(layer)
    x, *_ = make_problem(rng, layer)
    assert_same_bits(other.forward(x).h, layer.forward(x).h)
    assert (other.num_layers, other.bidirectional) == (layers, both)
    before = layer.parameters
    layer.replace(**{names[-1]: before[names[-1]] + 1})
    for name, values in layer.parameters.items():
        assert_same_bits(values, before[name] + 1 if name == names[-1] else before[name])
    with pytest.raises(ValueError, match="`Wx_l7` is no parameter of this layer"):
        layer.replace(Wx_l7=0)


def test_parameters__that_do_not_fit_are_named(rng):
    good = dict(make_stack(rng, "gru", both=True).parameters)
    make = rnnkernels.GRU.from_parameters
    without = {name: values for name, values in good.items() if name != "Wh_l1_reverse"}
    for wrong, message in (
        (without, "`parameters` lacks `Wh_l1_reverse`"),
        (good | {"Wy": 0}, "`Wy` in `parameters` is no name of a parameter"),
        (good | {"Wx_l01": 0}, "`Wx_l01` in `parameters` is no name"),
        (good | {"Wx": 0}, "`Wx` in `parameters` is of another layer"),
        (good | {"Wx_l999999999": 0}, "`parameters` lacks `Wx_l2`"),
        (good | {"Wx_l1": np.ones((5, 15))}, r"`Wx_l1` must have shape \(2H, 3H\) = \(10, 15\) to match `b_l0`"),
        (good | {"bh_l1": np.ones(14)}, r"`bh_l1` must have shape \(3H,\) = \(15,\)"),
        (good | {"Wh_l0_reverse": np.ones((15, 5))}, "`Wh_l0_reverse` must have .* transpose"),
        (good | {"b_l0": np.ones(16)}, "`b_l0` must have shape .* a multiple of 3"),
        ({"Wx_l0": 0, "Wh_l0": 0, "b_l0": 0}, "`parameters` lacks `Wx`"),
        ({}, "`parameters` lacks `Wx`"),
    ):
        with pytest.raises(ValueError, match=message):
            make(wrong)
    with pytest.raises(TypeError, match="`b_l1` must be an array; got None"):
        make(good | {"b_l1": None})
    with pytest.raises(TypeError, match="`parameters` must be a dict"):
        make([1])
    without_bh = {name: values for name, values in good.items() if not name.startswith("bh")}
    zeros = {name: np.zeros_like(values) for name, values in good.items() if name.startswith("bh")}
    x = rng.standard_normal((2, 3, 3))
    assert_same_bits(make(without_bh).forward(x).h, make(good | zeros).forward(x).h)


def test_options__that_make_no_sense_are_refused(rng):
    create = rnnkernels.LSTM.create
    for wrong, error, message in (
        ({"dropout": 0.2}, ValueError, "`dropout` acts between layers"),
        ({"dropout": 1, "num_layers": 2}, ValueError, "`dropout` must be in 0 <= dropout < 1"),
        ({"dropout": np.nan, "num_layers": 2}, ValueError, "`dropout` must be in"),
        ({"dropout": "0.2"}, TypeError, "`dropout` must be a number"),
        ({"num_layers": 0}, ValueError, "`num_layers` must be at least 1"),
        ({"rng": 3}, TypeError, r"`rng` must be a numpy.random.Generator"),
        ({"reset_after": True}, TypeError, "reset_after"),
    ):
        with pytest.raises(error, match=message):
            create(3, 4, **wrong)
    for layers in (1, 2):
        with pytest.raises(TypeError, match=r"`rng` must be a numpy.random.Generator"):
            make_stack(rng, "lstm", layers=layers).forward(np.ones((1, 2, 3)), rng=3)


def test_arguments__of_a_stack_that_do_not_fit_are_named(rng):
    layer = make_stack(rng, "lstm", both=True)
    x, _, dh, dstate = make_problem(rng, layer)
    cache = layer.forward(x).cache
    for call, message in (
        (lambda: layer.forward(x[0]), r"`x` must have shape \(N, T, D\)"),
        (lambda: layer.forward(x, np.ones((2, 4, 5))), r"`h0` must have shape \(K, N, H\) = \(4, 4, 5\)"),
        (lambda: layer.forward(x, c0=np.ones((1, 4, 4, 5))), "`c0` must have shape"),
        (lambda: layer.backward(dh[:, :, :5], cache), r"`dh` must have shape \(N, T, 2H\) = \(4, 6, 10\)"),
        (lambda: layer.backward(dh, cache, dstate=dstate[:1]), r"`dstate` must be a tuple \(dh, dc\)"),
        (lambda: layer.backward(dh, cache, dstate=(None, np.ones(4))), "`dstate.c` must have shape"),
        (lambda: layer.stream(), "needs a layer of one direction"),
        (lambda: layer.forward(x, num_threads=0), "`num_threads` must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("cell", KINDS)
def test_cache__is_described_and_kept_in_a_pickle(rng, cell):
    layer = make_stack(rng, cell, both=True, dropout=0.3)
    x, states, dh, dstate = make_problem(rng, layer)
    cache = layer.forward(x, **states, rng=rng).cache
    assert isinstance(cache, rnnkernels.StackCache)
    assert "directions=2, N=4, T=6, D=3, H=5, dtype=float64" in repr(cache)
    assert len(repr(cache)) < 150
    arrays = {id(array): array.nbytes for each in (*cache.parts, cache.masks) for array in each}
    assert cache.nbytes == sum(arrays.values())
    other = pickle.loads(pickle.dumps(cache))
    found = [layer.backward(dh, each, dstate=dstate) for each in (cache, other)]
    arrays = [[each.dx, each.dh0, *each.gradients.values()] for each in found]
    for one, two in zip(*arrays, strict=True):
        assert_same_bits(two, one)


def test_cache__belongs_to_the_weights_that_it_was_made_with(rng):
    layer = make_stack(rng, "gru")
    x, states, dh, _ = make_problem(rng, layer)
    cache = layer.forward(x, **states).cache
    assert all(part.Wx is layer.parameters[f"Wx_l{number}"] for number, part in enumerate(cache.parts))
    want = layer.backward(dh, cache)
    layer.replace(**{name: values * 0.5 for name, values in layer.parameters.items()})
    for got, wanted in zip(layer.backward(dh, cache).gradients.values(), want.gradients.values(), strict=True):
        assert_same_bits(got, wanted)


def test_cache__that_was_tampered_with_or_is_of_another_stack_is_refused(rng):
    layer = make_stack(rng, "lstm", layers=3, dropout=0.5)
    x, _, dh, _ = make_problem(rng, layer)
    cache = layer.forward(x, rng=rng).cache
    change = dataclasses.replace
    longer = layer.forward(np.concatenate([x, x], axis=1)).cache
    for wrong in (
        change(cache, parts=cache.parts[:2]),
        change(cache, parts=(*cache.parts[:2], None)),
        change(cache, parts=list(cache.parts)),
        change(cache, parts=(cache.parts[0], longer.parts[1], cache.parts[2])),
        change(cache, parts=cache.parts[1:] + cache.parts[:1]),
        change(cache, masks=cache.masks[:1]),
        change(cache, masks=(cache.masks[0][:, :3], None)),
        change(cache, masks=(cache.masks[0].astype(float), None)),
        change(cache, directions=2),
        make_stack(rng, "lstm").forward(x).cache,
        make_stack(rng, "gru", layers=3).forward(x).cache,
    ):
        with pytest.raises(ValueError, match="`cache` must be"):
            layer.backward(dh, wrong)
    with pytest.raises(TypeError, match="`cache` is None: call forward with keep_cache=True"):
        layer.backward(dh, None)
    with pytest.raises(TypeError, match="`cache` must be the StackCache that forward returned; got LSTMCache"):
        layer.backward(dh, cache.parts[0])
    with pytest.raises(TypeError, match="`cache` must be the LSTMCache"):
        make_stack(rng, "lstm", layers=1).backward(dh, cache)


@pytest.mark.parametrize("sizes", [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_stack__of_empty_sizes_gives_empty_results(rng, sizes):
    N, T, D = sizes
    layer = make_stack(rng, "lstm", D=D, both=True)
    result = layer.forward(np.zeros(sizes))
    assert result.h.shape == (N, T, 10)
    gradients = layer.backward(np.zeros((N, T, 10)), result.cache)
    assert gradients.dx.shape == sizes


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("cell", KINDS)
def test_copy__of_a_stack_is_the_same_stack(rng, cell, duplicate):
    layer = make_stack(rng, cell, both=True, dropout=0.25, variational=True, dtype=np.float32)
    other = duplicate(layer)
    assert repr(other) == repr(layer)
    assert "num_layers=2, bidirectional=True, dropout=0.25, variational=True" in repr(layer)
    x, states, *_ = make_problem(rng, layer)
    for generator in (None, 5):
        results = [each.forward(x, **states, rng=generator and np.random.default_rng(5)) for each in (layer, other)]
        assert_same_bits(results[1].h, results[0].h)


class TestFiles:
    @pytest.fixture(autouse=True)
    def needs_safetensors(self):
        pytest.importorskip("safetensors")

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("layers", "both"), [(1, False), (2, True)])
    @pytest.mark.parametrize("cell", KINDS)
    def test_load__makes_what_was_saved(self, rng, tmp_path, cell, layers, both, dtype):
        options = {"dropout": 0.1, "variational": True} if layers > 1 else {}
        layer = make_stack(rng, cell, layers=layers, both=both, dtype=dtype, **options)
        layer.save(tmp_path / "a layer.safetensors")
        other = class_of(cell).load(str(tmp_path / "a layer.safetensors"))
        assert repr(other) == repr(layer)
        assert list(other.parameters) == list(layer.parameters)
        for name, values in layer.parameters.items():
            assert_same_bits(other.parameters[name], values)
        x, *_ = make_problem(rng, layer)
        assert_same_bits(other.forward(x).h, layer.forward(x).h)
        assert os.listdir(tmp_path) == ["a layer.safetensors"]

    def test_save__that_fails_leaves_the_old_file(self, rng, tmp_path, monkeypatch):
        import safetensors.numpy

        path = tmp_path / "layer.safetensors"
        make_stack(rng, "rnn").save(path)
        before = path.read_bytes()

        def fail(parameters, partial, metadata):
            with open(partial, "wb") as file:
                file.write(b"half")
            raise OSError("no space left")

        monkeypatch.setattr(safetensors.numpy, "save_file", fail)
        with pytest.raises(OSError, match="no space left"):
            make_stack(rng, "lstm").save(path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["layer.safetensors"]
        with pytest.raises(FileNotFoundError):
            make_stack(rng, "lstm").save(tmp_path / "nowhere" / "layer.safetensors")

    def test_load__takes_a_file_from_elsewhere_with_the_same_names(self, rng, tmp_path):
        from safetensors.numpy import save_file

        layer = make_stack(rng, "gru", dtype=np.float32)
        save_file(dict(layer.parameters), tmp_path / "f.safetensors")
        assert repr(rnnkernels.GRU.load(tmp_path / "f.safetensors")) == repr(layer)

    def test_load__says_what_is_wrong(self, rng, tmp_path):
        path = tmp_path / "layer.safetensors"
        with pytest.raises(FileNotFoundError):
            rnnkernels.LSTM.load(path)
        make_stack(rng, "lstm").save(path)
        with pytest.raises(ValueError, match="it is of the cell 'lstm', not 'gru'"):
            rnnkernels.GRU.load(path)
        whole = path.read_bytes()
        for damaged in (b"", whole[:100], whole[:-8], b"PK" + whole):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="`path` must name a safetensors file"):
                rnnkernels.LSTM.load(path)
        from safetensors.numpy import save_file

        for text in ("{", "[]", "3"):
            save_file({"a": np.zeros(1)}, path, {"rnnkernels": text})
            with pytest.raises(ValueError, match="`path` must name a safetensors file"):
                rnnkernels.LSTM.load(path)
        save_file({"a": np.zeros(1)}, path)
        with pytest.raises(ValueError, match="`a` in `parameters` is no name"):
            rnnkernels.LSTM.load(path)


def test_files__without_the_extra_say_what_to_install(rng, tmp_path, monkeypatch):
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    layer = make_stack(rng, "rnn")
    for call in (layer.save, type(layer).load):
        with pytest.raises(ModuleNotFoundError, match=r'pip install "rnnkernels\[safetensors\]"'):
            call(tmp_path / "layer.safetensors")
    assert not os.listdir(tmp_path)
