"""Results are tuples with more to tell."""

import copy
import pickle

import numpy as np
import pytest

from rnnkernels._results import ForwardResult, GRUState, LSTMState, RNNState, SequenceGradients, StepGradients


def make_gradients(kind, **others):
    gradients = kind(tuple(np.full((2, size), float(size)) for size in range(1, 6)))
    vars(gradients).update(others)
    return gradients


def make_result(state):
    result = ForwardResult((np.ones((2, 3, 4), np.float32), ("a", "cache")))
    result.make_state = lambda: state
    return result


EXAMPLES = [
    (RNNState(np.ones((2, 4))), "RNNState(h=float64 (2, 4))"),
    (GRUState(np.ones((2, 4))), "GRUState(h=float64 (2, 4))"),
    (LSTMState(np.ones((2, 4)), None), "LSTMState(h=float64 (2, 4), c=None)"),
    (
        make_result(RNNState(np.ones((2, 4), np.float32))),
        "ForwardResult(h=float32 (2, 3, 4), cache=tuple, state=RNNState(h=float32 (2, 4)))",
    ),
    (
        make_gradients(SequenceGradients, dc0=np.ones(3)),
        "SequenceGradients(dx=float64 (2, 1), dh0=float64 (2, 2), dWx=float64 (2, 3), dWh=float64 (2, 4), "
        "db=float64 (2, 5), dc0=float64 (3,))",
    ),
    (
        make_gradients(StepGradients),
        "StepGradients(dx=float64 (2, 1), dprev_h=float64 (2, 2), dWx=float64 (2, 3), dWh=float64 (2, 4), "
        "db=float64 (2, 5))",
    ),
]
RESULTS, TEXTS = zip(*EXAMPLES, strict=True)
NAMES = [type(result).__name__ for result in RESULTS]


@pytest.mark.parametrize(("result", "text"), EXAMPLES, ids=NAMES)
def test_repr__names_what_there_is_in_one_line(result, text):
    assert repr(result) == text


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))])
@pytest.mark.parametrize("result", RESULTS, ids=NAMES)
def test_copy__has_all_that_the_original_has(result, duplicate):
    twin = duplicate(result)
    assert type(twin) is type(result)
    assert repr(twin) == repr(result)
    for got, want in zip(twin, result, strict=True):
        np.testing.assert_array_equal(got, want)
    for name, want in getattr(result, "__dict__", {}).items():
        if name != "make_state":
            np.testing.assert_array_equal(getattr(twin, name), want)


def test_state__is_made_once_when_asked_for():
    calls = []
    result = ForwardResult((np.ones((1, 1, 1)), None))
    result.make_state = lambda: calls.append(1) or RNNState(np.ones((1, 1)))
    assert not calls
    assert result.state is result.state
    assert len(calls) == 1
    result = ForwardResult((np.ones((1, 1, 1)), None))
    result.state = state = RNNState(np.ones((1, 1)))
    assert result.state is state


def test_gradients__are_there_by_place_and_by_name():
    gradients = make_gradients(SequenceGradients)
    assert all(a is b for a, b in zip(gradients, (getattr(gradients, n) for n in gradients._names), strict=True))
    gradients = make_gradients(StepGradients)
    assert all(a is b for a, b in zip(gradients, (getattr(gradients, n) for n in gradients._names), strict=True))
    with pytest.raises(AttributeError, match="dc0"):
        _ = gradients.dc0
