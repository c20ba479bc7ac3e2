"""Threads: the same bits, whoever helps, and no harm to concurrent callers, forks and interrupts."""

import collections
import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest
from conftest import wait_until, wait_until_awake
from helpers import DIVIDED, function
from numba import njit

import rnnkernels
from rnnkernels import _sequence, _threads, _tuning
from rnnkernels._checks.cells import Sizes
from rnnkernels.kernels import team as kernels
from rnnkernels.kernels.cell import cells
from rnnkernels.kernels.trace import read_clock


@pytest.fixture
def always_threads(monkeypatch):
    """Let small calls take threads too."""
    monkeypatch.setattr(_threads, "THREAD_FLOPS", 1.0)
    monkeypatch.setattr(_tuning, "STEP_FLOPS", 1)


def arguments(rng, gates, N, T, D, H, dtype):
    shapes = (N, T, D), (N, H), (D, gates * H), (H, gates * H), (gates * H,)
    return [(0.5 * rng.standard_normal(shape)).astype(dtype) for shape in shapes]


def run(cell, call, dh, num_threads):
    h, cache = function(rnnkernels, cell, "forward")(*call, num_threads=num_threads)
    inference, _ = function(rnnkernels, cell, "forward")(*call, num_threads=num_threads, keep_cache=False)
    return h, inference, *function(rnnkernels, cell, "backward")(dh, cache, num_threads=num_threads)


def assert_same_bits(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))


@pytest.mark.parametrize(
    "sizes", [(1, 300, 8, 33), (1, 700, 3, 64), (7, 61, 5, 41), (13, 40, 33, 83), (64, 9, 16, 128)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", DIVIDED)
def test_threads__do_not_change_a_bit(whole_teams, cell, dtype, sizes):
    rng = np.random.default_rng(0)
    call = arguments(rng, DIVIDED[cell], *sizes, dtype)
    dh = rng.standard_normal((sizes[0], sizes[1], sizes[3])).astype(dtype)
    alone = run(cell, call, dh, 1)
    for num_threads in (2, 3, 4):
        assert_same_bits(alone, run(cell, call, dh, num_threads))


@pytest.mark.parametrize(
    ("sizes", "barriers"), [((1, 700, 3, 64), 1), ((1, 700, 3, 64), 270), ((7, 161, 5, 41), 60), ((64, 9, 16, 128), 5)]
)
@pytest.mark.parametrize("cell", DIVIDED)
def test_teams_that_break_up__do_not_change_a_bit(break_up_teams, cell, sizes, barriers):
    rng = np.random.default_rng(0)
    call = arguments(rng, DIVIDED[cell], *sizes, np.float32)
    dh = rng.standard_normal((sizes[0], sizes[1], sizes[3])).astype(np.float32)
    alone = run(cell, call, dh, 1)
    break_up_teams(barriers)
    with rnnkernels.profiling.profile() as profile:
        for num_threads in (2, 3):
            assert_same_bits(alone, run(cell, call, dh, num_threads))
    _, _, backward, *_ = profile.calls
    leader, other = (np.count_nonzero(backward.chunks["thread"] == thread) for thread in (0, 1))
    assert leader > other > 0


@njit
def goes_on_alone(line, size, tick):
    kernels.consider_breaking_up(line, 0, size, tick)
    return kernels.is_broken_up(line, size, tick), kernels.is_broken_up(line, size, tick + 1)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    ("waits", "worth", "expected"),
    [(kernels.FORGIVEN_WAITS, 0.5, False), (kernels.FORGIVEN_WAITS + 1, 1.1, False), (1 << 40, 0.9, True)],
)
def test_team__breaks_up_when_the_leader_would_be_faster_alone(size, waits, worth, expected):
    """The leader has worked for so long that `size` members would have done `worth` times what it can do alone."""
    line, passed = board(size), 1 << 50
    line[kernels.FORGIVEN] = kernels.FORGIVEN_WAITS
    line[[kernels.BARRIERS + word for word in (kernels.BEGAN, kernels.LONG_WAITS, kernels.LOST)]] = (
        read_clock() - passed, waits, passed * (1 - worth / size)
    )  # fmt: skip
    assert goes_on_alone(line, size, 7) == (False, expected)


def board(size):
    """The board of an open team that has room for so many members."""
    words = np.zeros(kernels.BARRIERS + size * kernels.WORDS, np.int64)
    words[[kernels.OTHERS, kernels.FREE]] = size - 1
    return words


def test_team__goes_on_together_with_those_who_have_joined():
    line = board(4)
    assert kernels.close_team(line, 0) == 1
    assert [kernels.join_team(line) for _ in range(2)] == [1, 2]
    assert kernels.close_team(line, 5) == 3
    assert kernels.join_team(line) == 0
    assert line[[kernels.SIZE, kernels.START]].tolist() == [3, 5]
    line[kernels.LEFT] = 2
    kernels.leave_team(line, 0)
    assert line[kernels.SIZE] == 0
    kernels.open_team(line)
    assert line[[kernels.LEFT, kernels.FREE]].tolist() == [0, 3]


def test_team__has_no_place_for_one_too_many():
    line = board(3)
    assert [kernels.join_team(line) for _ in range(5)] == [1, 2, 0, 0, 0]
    line[kernels.FREE] = -3  # they all saw a place and took the last one at the same time
    assert kernels.close_team(line, 0) == 3


def test_team__that_ends_alone_turns_members_away():
    line = board(2)
    assert kernels.close_team(line, 0) == 1
    kernels.leave_team(line, 0)
    assert kernels.join_team(line) == 0


@pytest.mark.parametrize("joined", [1, 2])
def test_leader__leaves_when_all_others_have(joined):
    line = board(3)
    for _ in range(joined):
        kernels.join_team(line)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        kernels.leave_team(board(1), 0)  # compiles
        leader = executor.submit(kernels.leave_team, line, 0)
        wait_until(lambda: line[kernels.SIZE] == 1)  # whoever waits for the team to be closed comes too late
        for _ in range(joined):
            time.sleep(0.01)
            assert not leader.done()
            line[kernels.LEFT] += 1
        leader.result(timeout=60)


def test_threads__concurrent_callers_get_the_same_bits(always_threads):
    rng = np.random.default_rng(1)
    call = arguments(rng, 4, 5, 50, 7, 40, np.float32)
    dh = rng.standard_normal((5, 50, 40)).astype(np.float32)
    alone = run("lstm", call, dh, 1)
    with concurrent.futures.ThreadPoolExecutor(6) as executor:
        for result in executor.map(lambda _: run("lstm", call, dh, 2), range(60)):
            assert_same_bits(alone, result)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_threads__work_in_a_forked_child(always_threads):
    rng = np.random.default_rng(2)
    call = arguments(rng, 4, 4, 60, 8, 64, np.float32)
    dh = rng.standard_normal((4, 60, 64)).astype(np.float32)
    expected = run("lstm", call, dh, 2)
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        for result in executor.map(run, ["lstm"] * 4, [call] * 4, [dh] * 4, [2] * 4, timeout=120):
            assert_same_bits(expected, result)


def test_team__others_are_in_every_kernel_call_of_these_tests(whole_teams):
    """The tests of bits would pass if nobody ever came."""
    rng = np.random.default_rng(3)
    call = arguments(rng, 4, 3, 40, 7, 40, np.float32)
    run("lstm", call, rng.standard_normal((3, 40, 40)).astype(np.float32), 2)
    assert whole_teams.count(1) == len(whole_teams) > 0


@pytest.mark.parametrize("num_threads", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_layers__have_the_same_bits_on_any_number_of_threads(whole_teams, dtype, num_threads):
    rng = np.random.default_rng(4)
    x, w, b = ((rng.standard_normal(s)).astype(dtype) for s in ((5, 43, 37), (37, 411), (411,)))
    dout = rng.standard_normal((5, 43, 411)).astype(dtype)
    words = rng.integers(0, 30, (40, 43))
    table, dvectors = (rng.standard_normal(s).astype(dtype) for s in ((30, 37), (40, 43, 37)))

    def results(threads):
        out, affine = rnnkernels.temporal_affine_forward(x, w, b, num_threads=threads)
        loss, dscores = rnnkernels.temporal_softmax_loss(out, words[:5] % 30, words[:5] > 3, num_threads=threads)
        vectors, embedding = rnnkernels.word_embedding_forward(words, table, num_threads=threads)
        return (
            out, *rnnkernels.temporal_affine_backward(dout, affine, num_threads=threads), np.array(loss), dscores,
            vectors, rnnkernels.word_embedding_backward(dvectors, embedding, num_threads=threads),
        )  # fmt: skip

    assert_same_bits(results(1), results(num_threads))
    assert max(whole_teams) == num_threads - 1


@pytest.fixture
def pool(monkeypatch):
    """A pool of its own, whose threads stay awake as long as teams are at work."""
    fresh = _threads._Pool()
    monkeypatch.setattr(_threads, "_pool", fresh)
    monkeypatch.setattr(kernels, "BUSY_TURNS", 1 << 60)
    monkeypatch.setattr(kernels, "WELCOME", 1 << 60)
    return fresh


def fail(*_):
    raise KeyboardInterrupt


@njit(nogil=True)
def count_members(came, offset, name, team, member):
    """Each member counts itself, if all arguments have come as the leader had them."""
    kernels.open_to_members(team, member)
    if name.scale == 0.5 and name.shape == (2, 3):
        kernels.atomic_add(came, offset + member, 1)
    kernels.leave_team(team, member)


Name = collections.namedtuple("Name", "shape scale")


def meet(team):
    """How often each member of a team entered a kernel."""
    came = np.zeros(10, np.int64)
    wait_until_awake(team, team._others)
    team.run(count_members, (came, 2, Name((2, 3), 0.5)), ())
    return came.tolist()


def test_team__whose_kernel_call_fails_lets_its_threads_go(pool):
    with _threads.Team(2) as team:
        wait_until_awake(team, 1)
        with pytest.raises(KeyboardInterrupt):
            team.run(fail, (), ())
    wait_until(lambda: pool.board[kernels.AWAKE] == 0)


def test_team__that_is_interrupted_while_it_assembles_gives_the_pool_back(pool, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pool, "wake_up", fail)
        with pytest.raises(KeyboardInterrupt), _threads.Team(2):
            pass
    with _threads.Team(2) as team:
        assert team._pool is pool
        assert meet(team) == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]


def test_pool__is_free_when_who_has_taken_it_is_gone(pool):
    """An interrupt may come right after a call has taken the threads, before anything could give them back."""
    team, other = _threads.Team(2), _threads.Team(2)
    assert pool.take(team)
    pool.board[kernels.AT_WORK] = 1
    assert not pool.take(other)
    del team
    assert pool.is_free
    assert pool.board[kernels.AT_WORK] == 0
    assert pool.take(other)
    pool.give_back()
    third = _threads.Team(2)
    assert pool.take(third)
    del other  # it had given the threads back
    assert not pool.is_free


def test_pool__serves_teams_of_any_size_and_no_member_is_too_many(pool):
    for threads in (2, 3, 2, 6, 1, 4):
        with _threads.Team(threads) as team:
            for _ in range(3):
                assert meet(team) == [0, 0, *[1] * threads, *[0] * (8 - threads)]


def test_pool__lets_threads_sleep_that_smaller_teams_do_not_need(pool):
    with _threads.Team(4) as team:
        meet(team)
        assert pool.board[kernels.AWAKE] == 3
    with _threads.Team(2) as team:
        meet(team)
        assert pool.board[kernels.AWAKE] == 1


def test_pool__keeps_no_array_of_a_call(pool):
    """Or else memory that callers give back would be given back late, by other threads."""
    with _threads.Team(3) as team:
        came = np.zeros(10, np.int64)
        data = came, 2, Name((2, 3), 0.5)
        wait_until_awake(team, 2)
        team.run(count_members, data, ())
        assert came.sum() == 3
        alive = weakref.ref(came)
        del came, data
        assert alive() is None


def test_set_num_threads__is_what_get_num_threads_says():
    before = rnnkernels.get_num_threads()
    try:
        rnnkernels.set_num_threads(3)
        assert rnnkernels.get_num_threads() == 3
    finally:
        rnnkernels.set_num_threads(before)


@pytest.mark.parametrize("wrong", [0, -1])
def test_set_num_threads__rejects_less_than_one(wrong):
    with pytest.raises(ValueError, match=rf"`num_threads` must be at least 1; got {wrong}"):
        rnnkernels.set_num_threads(wrong)


@pytest.mark.parametrize("wrong", [1.5, "2", True, None])
def test_set_num_threads__rejects_what_is_no_integer(wrong):
    with pytest.raises(TypeError, match="`num_threads` must be an integer"):
        rnnkernels.set_num_threads(wrong)


def in_fresh_process(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_num_threads__come_from_the_environment():
    code = "import rnnkernels; print(rnnkernels.get_num_threads())"
    assert in_fresh_process(code, RNNKERNELS_NUM_THREADS="1") == "1"
    assert in_fresh_process(code, RNNKERNELS_NUM_THREADS="", OMP_NUM_THREADS="1") == "1"
    available = str(_threads.available_threads())
    assert in_fresh_process(code, RNNKERNELS_NUM_THREADS="nonsense", OMP_NUM_THREADS="") == available
    assert in_fresh_process(code, RNNKERNELS_NUM_THREADS="1000", OMP_NUM_THREADS="1") == available


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no affinity")
def test_num_threads__respect_the_affinity():
    code = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import rnnkernels
        print(rnnkernels.get_num_threads())
    """
    assert in_fresh_process(code, RNNKERNELS_NUM_THREADS="", OMP_NUM_THREADS="") == "1"


def test_split__leaves_steps_too_short_to_wait_for_on_one_thread():
    float32, many, rnn = np.dtype(np.float32), 1 << 30, cells["rnn"]
    assert _sequence._split(rnn, Sizes(1, many, 16, 64), float32, _tuning.STEP_FLOPS, 2) == (1, False)
    assert _sequence._split(rnn, Sizes(1, many, 16, 64), float32, 2 * _tuning.STEP_FLOPS, 2) == (2, False)
    assert _sequence._split(rnn, Sizes(64, many, 1, 1), float32, 2, 2) == (2, True)


def test_split__divides_the_batch_where_weights_are_near_or_serve_many_rows():
    def by_rows(N, H):
        return _sequence._split(cells["lstm"], Sizes(N, 100, 64, H), np.dtype(np.float32), 1 << 30, 2)[1]

    assert [by_rows(N, 128) for N in (1, 3, 4, 16)] == [False, False, True, True]
    assert [by_rows(N, 1024) for N in (1, 4, 15, 16)] == [False, False, False, True]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_shares__are_taken_once_and_by_whoever_has_time(size, count):
    line = board(size)
    fast = size - 1
    first, end = count * fast // size, count
    found, owner, taken = [], fast, 0
    while (step := kernels.take_from_share(line, 1, owner, taken, size, count))[0] >= 0:
        thing, owner, taken = step
        found.append(thing)
    own = list(range(first, end))
    assert found[: len(own)] == own, "not its own share first"
    assert sorted(found) == list(range(count)), "not each thing once"
    if size > 1:
        assert all(kernels.take_from_share(line, 1, m, 0, size, count)[0] == -1 for m in range(size))
        assert kernels.take_from_share(line, 2, 0, 0, size, 1)[0] == 0, "another share is not free"


def test_segments__cover_everything_once():
    parts = list(_threads.segments(1000, _threads.SEGMENT_FLOPS / 300))
    assert parts == [(0, 300), (300, 600), (600, 900), (900, 1000)]
    assert list(_threads.segments(3, 1e30)) == [(0, 1), (1, 2), (2, 3)]
    assert list(_threads.segments(0, 1.0)) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT between processes")
def test_long_call__is_interrupted_soon():
    code = """
        import _thread, threading, time
        import numpy as np
        import rnnkernels
        args = [np.zeros(s, np.float32) for s in ((8, 20000, 256), (8, 256), (256, 1024), (256, 1024), (1024,))]
        short = [np.ascontiguousarray(args[0][:, :2]), *args[1:]]
        rnnkernels.lstm_forward(*short, keep_cache=False)
        threading.Timer(0.3, _thread.interrupt_main).start()
        begin = time.perf_counter()
        try:
            while True:
                rnnkernels.lstm_forward(*args, keep_cache=False)
        except KeyboardInterrupt:
            print(time.perf_counter() - begin < 3)
    """
    assert in_fresh_process(code) == "True"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT between processes")
def test_long_step__is_interrupted_soon():
    code = """
        import _thread, threading, time
        import numpy as np
        import rnnkernels
        def arguments(N, H):
            return [np.zeros(s, np.float32) for s in ((N, H), (N, H), (N, H), (H, 4 * H), (H, 4 * H), (4 * H,))]
        rnnkernels.lstm_step_forward(*arguments(600, 700))  # compiles what a long step takes
        begin = time.perf_counter()
        rnnkernels.lstm_step_forward(*arguments(3000, 1500))
        took = time.perf_counter() - begin
        threading.Timer(0.2, _thread.interrupt_main).start()
        begin = time.perf_counter()
        try:
            rnnkernels.lstm_step_forward(*arguments(3000, 1500))
        except KeyboardInterrupt:
            pass
        print(time.perf_counter() - begin < max(0.7 * took, 1))
    """
    assert in_fresh_process(code) == "True"


@pytest.fixture
def long_steps(monkeypatch):
    """Each kernel call counts as one that takes long, and has a leader of its own."""
    monkeypatch.setattr(_threads, "UNSEEN_FLOPS", 0)
    leaders, start = [], _threads.start

    def started(function, name):
        leaders.append(name)
        return start(function, name)

    monkeypatch.setattr(_threads, "start", started)
    return leaders


@pytest.mark.parametrize("cell", DIVIDED)
def test_long_steps__do_not_change_a_bit(long_steps, monkeypatch, cell):
    rng = np.random.default_rng(0)
    call, dh = arguments(rng, DIVIDED[cell], 7, 61, 5, 41, np.float32), np.ones((7, 61, 41), np.float32)
    alone = run(cell, call, dh, 1)
    monkeypatch.setattr(_tuning, "SEGMENT_FLOPS", 0)
    monkeypatch.setattr(_threads, "THREAD_FLOPS", 1.0)
    del long_steps[:]
    assert_same_bits(alone, run(cell, call, dh, 2))
    assert long_steps


def interrupt(*_):
    raise KeyboardInterrupt


def test_long_step__that_is_interrupted_has_the_pool_until_it_ends(pool, monkeypatch):
    may_end = threading.Event()
    monkeypatch.setattr(_threads, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt), _threads.Team(2) as team:
        team.run(lambda board, member: may_end.wait(), (), (), _tuning.UNSEEN_FLOPS)
    assert not pool.is_free
    may_end.set()
    wait_until(lambda: pool.is_free)
    assert pool.board[kernels.AT_WORK] == 0


def test_long_step__fails_with_the_error_of_its_kernel(pool):
    with pytest.raises(KeyboardInterrupt), _threads.Team(1) as team:
        team.run(interrupt, (), (), _tuning.UNSEEN_FLOPS)


def test_start__runs_here_if_the_system_starts_no_thread(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda thread: throw(RuntimeError))
    assert _threads.wait_for(_threads.start(threading.get_ident, "")) == threading.get_ident()


def throw(error):
    raise error


@pytest.fixture
def pace(monkeypatch):
    """A pace, its calls one after the other: given how long they take, whether each had a team."""
    monkeypatch.setattr(_threads, "_paces", {})
    own, now = _threads.Pace(), [0]

    def calls(count, with_team_ns, alone_ns):
        had_team = []
        for _ in range(count):
            had_team.append(own.wants_team(now[0]))
            end_ns = now[0] + (with_team_ns if had_team[-1] else alone_ns)
            own.saw(had_team[-1], now[0], end_ns)
            now[0] = end_ns
        return had_team

    return calls


def test_pace__keeps_a_team_that_is_worth_it_and_reviews_it_now_and_then(pace):
    had_team = pace(4 * _tuning.REVIEW_CALLS, 1000, 1900)
    assert had_team[:3] == [True, False, True]
    assert had_team.count(False) == 4


@pytest.mark.parametrize(("with_team_ns", "tries"), [(900, 2), (8000, 1)])
def test_pace__gives_a_team_up_for_longer_each_time(pace, with_team_ns, tries):
    """A team that gains little gets a second chance, since others may have been asleep; one that harms gets none."""
    had_team = pace(3000, with_team_ns, 1000)
    assert had_team[: 2 + tries] == [True, False, *[True] * tries]
    pauses = [len(run) for run in "".join("T" if had else "." for had in had_team[2 + tries :]).split("T") if run]
    assert pauses[0] == _tuning.LEAST_REST
    assert pauses[1] > 1.5 * pauses[0]
    assert had_team[1000:].count(True) <= 0.01 * 2000


def test_pace__forms_a_team_again_when_it_is_worth_it_again(pace):
    pace(100, 8000, 1000)
    had_team = pace(8 * _tuning.LEAST_REST * 16, 600, 1000)
    assert all(had_team[-10:])


def test_calls_of_a_kind__share_a_pace(monkeypatch):
    monkeypatch.setattr(_threads, "MOST_PACES", 2)
    monkeypatch.setattr(_threads, "_paces", {})
    paces = [_threads.Team(threads, kind)._pace for threads, kind in ((2, "a"), (2, "a"), (3, "a"), (2, "b"), (1, "c"))]
    assert paces[0] is paces[1] is not paces[2]
    assert paces[3] is paces[4] is None
    with _threads.Team(2, "a"):
        pass
    assert (paces[0].calls, paces[0].alone_ns) == (1, 0)
    with _threads.Team(2, "a"):
        pass
    assert paces[0].alone_ns > 0
