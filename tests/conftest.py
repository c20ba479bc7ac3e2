import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rnnkernels import _memory, _sequence, _spans, _threads, _tuning, embedding
from rnnkernels.kernels import team

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def rng():
    return np.random.default_rng(20261123)


@pytest.fixture(autouse=True)
def guarded_memory(monkeypatch):
    """Have every fresh array of the package filled with NaN, and its borders watched."""
    from helpers import GuardedMemory

    guard = GuardedMemory()
    monkeypatch.setattr(_memory, "SMALL_SCRATCH", 0)  # scratch that is kept would hold what calls before have left
    monkeypatch.setattr(_sequence, "MOST_PLANS", 0)  # tests change what plans depend on
    monkeypatch.setattr(_sequence, "plans", {})
    monkeypatch.setattr(_threads, "MOST_PACES", 0)  # whether a team forms would depend on how fast it was before
    modules = [module for name, module in sys.modules.items() if name.startswith("rnnkernels")]
    for name in ("empty", "aligned_empty"):
        allocate = getattr(_memory, name)
        for module in modules:
            if getattr(module, name, None) is allocate:
                monkeypatch.setattr(module, name, guard.guarded(allocate))
    for module in (_spans, embedding):
        monkeypatch.setattr(module, "zeros", guard.guarded(_memory.zeros, 0))
    monkeypatch.setattr(_memory, "_scratch", _memory._Scratch())
    yield
    guard.check()


@pytest.fixture
def whole_teams(monkeypatch):
    """Let small calls take threads too, and leaders wait for all members, who would come when all is done otherwise.

    The list has, for each kernel call of a team, how many there were besides the leader.
    """
    run, came = _threads.Team.run, []
    wait_until(lambda: _threads._pool.board[team.AWAKE] == 0)  # who listens by now does so for a short time

    def run_with_all(self, kernel, data, work, flops=0.0):
        others = self._others if self._pool else 0
        wait_until_awake(self, others)
        run(self, kernel, data, work, flops)
        if others:
            came.append(int(self._board[team.LEFT]))

    monkeypatch.setattr(_threads, "THREAD_FLOPS", 1.0)
    monkeypatch.setattr(_tuning, "STEP_FLOPS", 1)
    monkeypatch.setattr(team, "FORGIVEN_WAITS", 1 << 60)
    monkeypatch.setattr(team, "WELCOME", 1 << 60)
    monkeypatch.setattr(team, "BUSY_TURNS", 1 << 60)
    monkeypatch.setattr(_threads.Team, "run", run_with_all)
    return came


@pytest.fixture
def break_up_teams(monkeypatch, whole_teams):
    """A function that has whole teams break up at the first occasion after some barriers."""
    run = _threads.Team.run

    def break_up_after(barriers):
        def run_and_break_up(self, *arguments):
            self._board[team.BROKEN_UP] = barriers
            run(self, *arguments)

        monkeypatch.setattr(_threads.Team, "run", run_and_break_up)

    return break_up_after


def wait_until_awake(of_team, others):
    """Wait until so many threads listen to a team; wake up whoever was about to fall asleep."""

    def all_are_awake():
        if others:
            of_team._pool.wake_up(others)
        return others == 0 or of_team._board[team.AWAKE] == others

    wait_until(all_are_awake)


def wait_until(condition):
    end_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end_s, "no thread came"
        time.sleep(1e-5)
