"""Profiles of calls."""

import json
import signal
import threading
import types

import numba
import numpy as np
import pytest
from helpers import GATES, assert_same_bits, function, make_arguments

import rnnkernels
from rnnkernels import _packing, _recorder, activations, profiling
from rnnkernels.kernels import inventory, jit, trace


@pytest.fixture(params=["rnn", "lstm"])
def cell(request):
    return request.param


def run(cell, arguments, **options):
    h, cache = function(rnnkernels, cell, "forward")(*arguments, **options)
    return h, cache, function(rnnkernels, cell, "backward")(h, cache, **options)


def test_profile__divides_the_whole_time_of_a_call(rng, cell):
    arguments = make_arguments(rng, GATES[cell], 2, 700, 3, 20, np.float32)
    with profiling.profile() as profile:
        run(cell, arguments)
    forward, backward = profile.calls
    assert (forward.name, backward.name) == (f"{cell}_forward", f"{cell}_backward")
    for call, passes in ((forward, 1), (backward, 2)):
        assert call.sizes == {"N": 2, "T": 700, "D": 3, "H": 20}
        assert call.dtype == "float32"
        assert call.flops == passes * 2 * 2 * 700 * GATES[cell] * 20 * (3 + 20)
        assert call.seconds == pytest.approx(sum(phase.seconds for phase in call.phases))
        assert all(phase.seconds > 0 for phase in call.phases)
        assert {"pack", "recur", "cell", "wrapper"} < {phase.name for phase in call.phases}
    assert forward.begin + forward.seconds <= backward.begin
    columns = _packing.unit_columns(20, np.dtype(np.float32))
    assert forward.kept_bytes == {"rnn": 701, "lstm": 4 * 700 + 701, "gru": 4 * 700 + 701}[cell] * 2 * columns * 4
    assert backward.kept_bytes == 0
    assert forward.result_bytes == 700 * 2 * 20 * 4


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_chunks__hold_every_step_once_on_each_thread_in_the_order_of_time(rng, cell, threads, whole_teams):
    arguments = make_arguments(rng, GATES[cell], 2, 3000, 3, 40, np.float64)
    with profiling.profile() as profile:
        run(cell, arguments, num_threads=threads)
    for call, sign in zip(profile.calls, (1, -1), strict=True):
        assert call.threads == call.joined == threads
        for thread in range(threads):
            chunks = call.chunks[call.chunks["thread"] == thread]
            steps = np.concatenate([np.arange(c["start"], c["start"] + c["steps"])[::sign] for c in chunks])
            np.testing.assert_array_equal(steps, np.arange(3000)[::sign])
            assert (np.diff(chunks["begin"]) > 0).all()
            assert (chunks["seconds"].sum(axis=1) > 0).all()
        mine = call.chunks[call.chunks["thread"] == 0]
        ends = mine["begin"] + mine["seconds"].sum(axis=1)
        assert (ends[:-1] < mine["begin"][1:] + 1e-6).all()
        assert ends[-1] < call.begin + call.seconds + 1e-3


def test_chunks__that_are_not_timed_share_the_time_until_the_next(rng):
    arguments = make_arguments(rng, 4, 1, 20_000, 2, 60, np.float32)
    with profiling.profile() as profile:
        rnnkernels.lstm_forward(*arguments, num_threads=1)
    [call] = profile.calls
    timed = call.chunks["timed"]
    assert timed[: trace.FIRST_SAMPLES].all()
    assert 0.2 < timed[trace.FIRST_SAMPLES :].mean() < 0.35
    gaps = np.diff(call.chunks["begin"])[~timed[:-1]]
    np.testing.assert_allclose(call.chunks["seconds"].sum(axis=1)[:-1][~timed[:-1]], gaps)


def test_profile__changes_no_result(rng, cell):
    arguments = make_arguments(rng, GATES[cell], 3, 40, 5, 9, np.float32)
    plain = run(cell, arguments)
    with profiling.profile():
        profiled = run(cell, arguments)
    for got, want in zip((profiled[0], *profiled[2]), (plain[0], *plain[2]), strict=True):
        assert_same_bits(got, want)


def test_profile__sees_every_public_function(rng):
    x, h, c, Wx, Wh = (rng.standard_normal(s) for s in ((2, 3), (2, 4), (2, 4), (3, 16), (4, 16)))
    words = np.array([[1, 2], [0, 1]])
    with profiling.profile() as profile:
        _, _, cache = rnnkernels.lstm_step_forward(x, h, c, Wx, Wh, np.zeros(16))
        rnnkernels.lstm_step_backward(h, c, cache)
        _, cache = rnnkernels.rnn_step_forward(x, h, Wx[:, :4], Wh[:, :4], b=np.zeros(4))
        rnnkernels.rnn_step_backward(h, cache)
        out, cache = rnnkernels.word_embedding_forward(words, W=rng.standard_normal((3, 5)))
        rnnkernels.word_embedding_backward(out, cache)
        out, cache = rnnkernels.temporal_affine_forward(out, rng.standard_normal((5, 3)), [0, 0, 0])
        rnnkernels.temporal_affine_backward(out, cache)
        rnnkernels.temporal_softmax_loss(out, words, np.ones((2, 2)))
        rnnkernels.sigmoid([1.0, 2.0])
        affine = rng.standard_normal((2, 2, 5)), rng.standard_normal((5, 3)), np.zeros(3), words, np.ones((2, 2))
        rnnkernels.temporal_affine_softmax_loss(*affine)
        rnnkernels.temporal_affine_softmax_loss(*affine, gradients=False)
    step = {"N": 2, "T": 1, "D": 3, "H": 4}
    assert [(call.name, call.sizes) for call in profile.calls] == [
        ("lstm_step_forward", step),
        ("lstm_step_backward", step),
        ("rnn_step_forward", step),
        ("rnn_step_backward", step),
        ("word_embedding_forward", {"N": 2, "T": 2, "V": 3, "D": 5}),
        ("word_embedding_backward", {"N": 2, "T": 2, "V": 3, "D": 5}),
        ("temporal_affine_forward", {"N": 2, "T": 2, "D": 5, "M": 3}),
        ("temporal_affine_backward", {"N": 2, "T": 2, "D": 5, "M": 3}),
        ("temporal_softmax_loss", {"N": 2, "T": 2, "V": 3}),
        ("sigmoid", {"size": 2}),
        *[("temporal_affine_softmax_loss", {"N": 2, "T": 2, "D": 5, "V": 3})] * 2,
    ]
    assert [call.flops for call in profile.calls[6:8]] == [120, 240]
    assert [call.flops for call in profile.calls[-2:]] == [360, 120]
    for call in profile.calls:
        assert call.seconds > 0
        assert call.name in profile.table()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("RNN", {}), ("LSTM", {}), ("GRU", {"reset_after": False}), ("LSTM", {"projection": 5, "coupled": True})],
)
def test_profile__sees_layers_and_streams(rng, kind, options):
    layer = getattr(rnnkernels, kind).create(3, 20, **options)
    N, T, gates = 2, 30, {"RNN": 1, "GRU": 3}.get(kind, 3 if options else 4)
    x = rng.standard_normal((N, T, 3)).astype(np.float32)
    outside = layer.forward(x).h
    with profiling.profile() as profile:
        h, cache = layer.forward(x)
        layer.backward(h, cache)
        layer.step(x[:, 0])
        stream = layer.stream(batch_size=N)
        stream.step(x[:, 0])
        stream.steps(x[:, 1:])
    assert_same_bits(h, outside)
    P, projecting = options.get("projection", 20), 2 * N * 20 * options.get("projection", 0)
    step = 2 * N * 20 * gates * (3 + P) + projecting
    expected = [
        (f"{kind}.forward", T, T * step),
        (f"{kind}.backward", T, 2 * T * step + T * projecting),  # which makes hidden states once more
        (f"{kind}.step", 1, step),
        (f"{kind}Stream.step", 1, step),
        (f"{kind}Stream.steps", T - 1, (T - 1) * step),
    ]
    for call, (name, steps, flops) in zip(profile.calls, expected, strict=True):
        sizes = {"N": N, "T": steps, "D": 3, "H": 20} | ({"P": 5} if "projection" in options else {})
        assert (call.name, call.sizes, call.dtype, call.flops) == (name, sizes, "float32", flops)
        assert call.limit_seconds > 0
        assert (call.kept_bytes > 0) == (name == f"{kind}.forward")
        assert {phase.name for phase in call.phases} >= (set() if "Stream" in name else {"recur", "cell"})
        assert call.name in str(call)
    json.dumps(profile.to_dict())
    profile.chrome_trace()


def test_profile__sees_what_a_step_of_training_does_besides():
    layer = rnnkernels.GRU.create(3, 4)
    gradients = layer.parameters
    with profiling.profile() as profile:
        rnnkernels.clip_gradients({name: values.copy() for name, values in gradients.items()}, 1.0)
        layer.replace(Wh=np.ones((4, 12)), b=np.zeros(12))
    assert [(call.name, call.sizes) for call in profile.calls] == [
        ("clip_gradients", {"size": 3 * 12 + 4 * 12 + 2 * 12}),
        ("GRU.replace", {"size": 4 * 12 + 12}),
    ]
    assert layer.parameters["Wh"].all()
    json.dumps(profile.to_dict())


def test_profile__sees_each_layer_and_direction_of_a_stack(rng):
    stack = rnnkernels.LSTM.create(3, 8, num_layers=2, bidirectional=True)
    x = rng.standard_normal((2, 9, 3)).astype(np.float32)
    with profiling.profile() as profile:
        h, cache = stack.forward(x)
        stack.backward(h, cache)
        rnnkernels.LSTM.create(3, 8, num_layers=3).stream(batch_size=2).step(x[:, 0])
    names = [(call.name, call.sizes["D"]) for call in profile.calls]
    assert names == [
        *[("LSTM.forward", D) for D in (3, 3, 16, 16)],
        *[("LSTM.backward", D) for D in (16, 16, 3, 3)],
        *[("LSTMStream.step", D) for D in (3, 8, 8)],
    ]


def test_profile__forgets_a_call_of_a_layer_that_fails(rng):
    layer = rnnkernels.RNN.create(3, 4)
    with profiling.profile() as profile:
        for fail in (lambda: layer.forward(np.ones((2, 5))), lambda: layer.stream().step(np.ones((1, 4), np.float32))):
            with pytest.raises(ValueError, match="`x` must have"):
                fail()
        rnnkernels.sigmoid(0.0)
    assert [call.name for call in profile.calls] == ["sigmoid"]
    assert getattr(_recorder._call, "record", None) is None


def test_profile__keeps_concurrent_calls_apart(rng):
    sizes = [(1, 200, 2, 8), (2, 300, 3, 16), (3, 250, 4, 24), (1, 400, 5, 32)]
    problems = [make_arguments(rng, 4, *size, np.float32) for size in sizes]
    threads = [
        threading.Thread(target=lambda a=a: [rnnkernels.lstm_forward(*a) for _ in range(20)], name=f"caller {i}")
        for i, a in enumerate(problems)
    ]
    with profiling.profile() as profile:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(profile.calls) == 80
    for i, (N, T, D, H) in enumerate(sizes):
        mine = [call for call in profile.calls if call.thread == f"caller {i}"]
        assert len(mine) == 20
        for call in mine:
            assert call.sizes == {"N": N, "T": T, "D": D, "H": H}
            assert call.chunks["steps"][call.chunks["thread"] == 0].sum() == T


def test_profiles__may_be_nested_and_hear_nothing_when_they_have_ended():
    with profiling.profile() as outer:
        rnnkernels.sigmoid(0.0)
        with profiling.profile() as inner:
            rnnkernels.sigmoid([0.0, 1.0])
        with pytest.raises(TypeError):
            rnnkernels.sigmoid("no number")
    rnnkernels.sigmoid(0.0)
    assert [call.sizes["size"] for call in outer.calls] == [1, 2]
    assert [call.sizes["size"] for call in inner.calls] == [2]
    assert _recorder.listeners == ()


def test_calls__inside_a_call_are_recorded_beside_it():
    class Lazy:
        def __array__(self, dtype=None, copy=None):
            return rnnkernels.sigmoid(np.zeros(3))

    with profiling.profile(memory=True) as profile:
        np.testing.assert_array_equal(rnnkernels.sigmoid(Lazy()), rnnkernels.sigmoid(np.full(3, 0.5)))
    assert {call.sizes["size"] for call in profile.calls} == {3}
    assert all(call.peak_bytes >= 0 for call in profile.calls)
    assert getattr(_recorder._call, "record", None) is None


def test_calls__of_a_signal_handler_are_recorded(rng):
    handled = []

    def handle(*_):
        handled.append(rnnkernels.sigmoid(0.0))

    class Signals:
        def __array__(self, dtype=None, copy=None):
            signal.raise_signal(signal.SIGINT)
            return np.zeros((2, 3))

    before = signal.signal(signal.SIGINT, handle)
    try:
        with profiling.profile() as profile:
            rnnkernels.sigmoid(Signals())
    finally:
        signal.signal(signal.SIGINT, before)
    assert handled[0] == 0.5
    assert sorted(call.sizes["size"] for call in profile.calls)[-2:] == [1, 6]


def test_recording__is_timed_beside_the_calls(monkeypatch):
    now = iter(range(0, 100_000, 1000))
    monkeypatch.setattr(_recorder, "time", types.SimpleNamespace(perf_counter_ns=lambda: next(now)))
    records = []
    _recorder.listen(records)
    try:
        rnnkernels.sigmoid(0.0)  # looks at the clock when recording begins, the call, the rest of recording, and after
        work = _recorder.Work("rnn", (1, 1, 1, 1, 0), 1, 1)
        _recorder.add_record("RNNStream.step", 0, 3400, work, {"x": np.zeros((1, 1))}, np.zeros((1, 1)))
    finally:
        _recorder.ignore(records)
    assert [(record.begin_ns, record.end_ns, record.recording_ns) for record in records] == [
        (1000, 2000, 2000),
        (0, 3400, 600),
    ]


def test_arrays__alike_are_remembered_once():
    with profiling.profile() as profile:
        for size in (3, 3, 4):
            rnnkernels.sigmoid(np.zeros(size))
        rnnkernels.sigmoid(np.zeros(3, np.float32))
    first, second, longer, other = (record.results[0] for record in profile._records)
    assert first is second
    assert first == _recorder.Array((3,), np.dtype(np.float64), 24)
    assert (longer.nbytes, other.nbytes) == (32, 12)


def test_profile__of_nothing_has_no_call():
    with profiling.profile() as profile:
        pass
    assert profile.calls == []
    assert str(profile) == "No call was recorded."


@pytest.mark.parametrize("T", [0, 1])
def test_profile__takes_empty_sequences(rng, cell, T):
    with profiling.profile() as profile:
        run(cell, make_arguments(rng, GATES[cell], 2, T, 3, 5, np.float32))
    assert all(call.sizes["T"] == T for call in profile.calls)
    json.dumps(profile.to_dict())


def test_memory__counts_what_the_call_allocates(rng):
    arguments = make_arguments(rng, 4, 1, 20_000, 16, 64, np.float32)
    with profiling.profile(memory=True) as profile:
        rnnkernels.lstm_forward(*arguments, num_threads=1)
        rnnkernels.lstm_forward(*arguments, num_threads=1, keep_cache=False)
    assert profile.calls[0].kept_bytes >= 20_000 * 5 * 64 * 4
    for call in profile.calls:
        scratch = call.peak_bytes - call.result_bytes - call.kept_bytes
        assert 0 < scratch < 2e6


def test_machine_code__is_counted_where_it_is_made(monkeypatch):
    fresh = numba.njit(lambda x, out: out.fill(0))
    monkeypatch.setattr(inventory, "_kernels", lambda: [fresh])
    monkeypatch.setattr(inventory, "_overloads", lambda: [fresh.overloads])
    monkeypatch.setattr(
        activations.kernels, "SIGMOID_OF_ARRAY", jit.EntryPoints(fresh, lambda d: (np.zeros(1, d),) * 2)
    )
    with profiling.profile() as profile:
        rnnkernels.sigmoid([0.0])
        rnnkernels.sigmoid([1.0])
        rnnkernels.sigmoid(np.float32([1]))
    assert [(call.compiled, call.loaded) for call in profile.calls] == [(1, 0), (0, 0), (1, 0)]
    assert "1 kernel compiled" in str(profile)


def test_chrome_trace__nests_chunks_in_calls_and_phases_in_chunks(rng, tmp_path, whole_teams):
    with profiling.profile() as profile:
        rnnkernels.lstm_forward(*make_arguments(rng, 4, 1, 500, 3, 40, np.float32), num_threads=2)
    profile.save_chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    names = [event["args"]["name"] for event in events if event["ph"] == "M"]
    assert names == [threading.current_thread().name, f"{threading.current_thread().name}, helper 1"]
    complete = [event for event in events if event["ph"] == "X"]
    [call] = [event for event in complete if event["name"] == "lstm_forward"]
    assert call["args"]["T"] == 500
    for event in complete:
        assert event["ts"] >= call["ts"] - 1
        assert event["ts"] + event["dur"] <= call["ts"] + call["dur"] + 1000
    assert {event["name"] for event in complete} >= {"pack", "chunk", "project", "recur", "cell", "scatter"}
    assert {event["tid"] for event in complete} == {1, 2}


def test_profile__is_short_in_repr_readable_in_str_and_a_table_in_notebooks(rng):
    with profiling.profile() as profile:
        rnnkernels.lstm_forward(*make_arguments(rng, 4, 2, 30, 3, 5, np.float32))
    [call] = profile.calls
    phase = call.phase["recur"]
    assert phase in call.phases
    assert list(call.phase) == [one.name for one in call.phases]
    for shown in (profile, call, phase):
        assert len(repr(shown)) < 100
        assert "\n" not in repr(shown)
        assert "recur" in str(shown)
        assert "recur" in shown._repr_html_()
    assert repr(call).startswith("Call('lstm_forward', N=2, T=30, D=3, H=5, float32, ")
    assert "N = 2, T = 30" in call._repr_html_()
    assert profile._repr_html_().count("<table>") == 1
    told = rnnkernels.explain(2, 30, 3, 5)
    assert repr(told).startswith("Explanation('lstm', N=2, T=30, D=3, H=5, float32, inference, limit ")
    assert "register tile" in told._repr_html_()


@pytest.mark.parametrize("module", [profiling, rnnkernels.reference, rnnkernels.roofline])
def test_public_modules__name_what_is_public(module):
    assert list(module.__all__) == sorted(module.__all__, key=lambda name: (not name.isupper(), name.islower(), name))
    assert all(hasattr(module, name) for name in module.__all__)


def test_calls_with_lengths__count_the_steps_that_there_are(rng):
    arguments = make_arguments(rng, 4, 6, 40, 5, 16, np.float32)
    lengths = [40, 3, 0, 17, 8, 2]
    with profiling.profile() as profile:
        result = rnnkernels.lstm_forward(*arguments, lengths=lengths)
        rnnkernels.lstm_backward(result.h, result.cache)
        rnnkernels.lstm_backward(result.h, rnnkernels.lstm_forward(*arguments, checkpoint_every=10).cache)
    forward = 2 * 4 * 16 * (5 + 16)
    whole, rows = 6 * 40, sum(lengths)
    flops = [rows * forward, 2 * rows * forward, whole * forward, 3 * whole * forward]
    assert [call.flops for call in profile.calls] == flops
