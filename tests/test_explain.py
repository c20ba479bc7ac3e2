"""Explanations of calls, beside the calls themselves."""

import numpy as np
import pytest
from helpers import DTYPES, GATES, function, make_arguments

import rnnkernels
from rnnkernels import profiling


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize(("training", "D", "H"), [(False, 10, 45), (True, 10, 45), (True, 300, 48)])
def test_explanation__is_what_a_profile_then_shows(rng, cell, dtype, training, D, H):
    N, T = 3, 2000
    told = rnnkernels.explain(N, T, D, H, cell=cell, dtype=dtype, training=training, num_threads=1)
    arguments = make_arguments(rng, GATES[cell], N, T, D, H, dtype)
    forward, backward = (function(rnnkernels, cell, way) for way in ("forward", "backward"))
    for memory in (False, True):  # the first profile loads machine code, which takes memory too
        with profiling.profile(memory=memory) as profile:
            h, cache = forward(*arguments, keep_cache=training, num_threads=1)
            if training:
                backward(h, cache, num_threads=1)
    assert len(told.passes) == len(profile.calls)
    assert told.flops == sum(call.flops for call in profile.calls)
    assert told.cache_bytes == profile.calls[0].kept_bytes
    assert told.result_bytes == sum(call.result_bytes for call in profile.calls)
    for plan, call in zip(told.passes, profile.calls, strict=True):
        assert plan.chunk == call.chunks["steps"].max()
        assert plan.limit_seconds == pytest.approx(call.limit_seconds)
        assert {phase.name for phase in plan.phases} <= {phase.name for phase in call.phases}
        assert plan.scratch_bytes == pytest.approx(call.peak_bytes - call.result_bytes - call.kept_bytes, rel=0.1)


def test_threads__divide_sequences_or_hidden_units():
    def split(N, threads):
        return [(p.threads, p.split) for p in rnnkernels.explain(N, 5000, 64, 128, num_threads=threads).passes]

    assert split(1, 1) == [(1, "none")]
    assert split(1, 2) == [(2, "hidden units")]
    assert split(256, 2) == [(2, "sequences")]


@pytest.mark.parametrize("sizes", [(0, 5, 3, 4), (2, 0, 3, 4), (2, 5, 0, 4), (1, 1, 1, 1)])
def test_empty_sizes__can_be_explained(sizes):
    told = rnnkernels.explain(*sizes, training=True)
    assert told.flops == 3 * 2 * sizes[0] * sizes[1] * 4 * sizes[3] * (sizes[2] + sizes[3])


def test_text__has_every_pass_and_phase():
    text = str(rnnkernels.explain(4, 100, 16, 64, training=True))
    for word in ("register tile", "forward", "backward", "project", "recur", "accumulate", "limit of this machine"):
        assert word in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"N": -1}, ValueError, "`N` must be at least 0; got -1"),
        ({"H": 0}, ValueError, "`H` must be at least 1; got 0"),
        ({"T": 2.0}, TypeError, "`T` must be an integer; got float"),
        ({"cell": "gnu"}, ValueError, "`cell` must be one of .*'gru'.*; got 'gnu'"),
        ({"dtype": np.int32}, TypeError, "`dtype` must be float32 or float64; got int32"),
        ({"num_threads": 0}, ValueError, "`num_threads` must be at least 1; got 0"),
    ],
)
def test_explain__names_what_is_wrong(options, error, message):
    with pytest.raises(error, match=message):
        rnnkernels.explain(**({"N": 1, "T": 2, "D": 3, "H": 4} | options))
