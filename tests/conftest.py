import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rnnkernels import _memory, _threads
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
    modules = [module for name, module in sys.modules.items() if name.startswith("rnnkernels")]
    for name in ("empty", "aligned_empty"):
        allocate = getattr(_memory, name)
        for module in modules:
            if getattr(module, name, None) is allocate:
                monkeypatch.setattr(module, name, guard.guarded(allocate))
    yield
    guard.check()


@pytest.fixture
def whole_teams(monkeypatch):
    """Let small calls take threads too, and leaders wait for all members, who would come when all is done otherwise."""
    run, joined = _threads.Team.run, []

    def run_with_all(self, kernel, data, work):
        current, others = self._run, self.threads - 1

        def all_have_come():
            if others > 0:
                self._pool.wake_up(current)
            return current.words[team.JOINED] % team.CLOSED >= others

        def enter_last(*arguments):
            if arguments[len(data) + 1]:  # the leader
                current.words[team.BELL] = team.RUNG
                wait_until(all_have_come)
                joined.append(others)
            kernel(*arguments)

        run(self, enter_last, data, work)

    monkeypatch.setattr(_threads, "THREAD_FLOPS", 1.0)
    monkeypatch.setattr(team, "FORGIVEN_WAITS", 1 << 60)
    monkeypatch.setattr(team, "IDLE_TURNS", 10**6)
    monkeypatch.setattr(_threads.Team, "run", run_with_all)
    return joined


@pytest.fixture
def break_up_teams(monkeypatch, whole_teams):
    """A function that has whole teams break up at the first occasion after some barriers."""
    run = _threads.Team.run

    def break_up_after(barriers):
        def run_and_break_up(self, kernel, data, work):
            self._run.words[team.BROKEN_UP] = barriers
            run(self, kernel, data, work)

        monkeypatch.setattr(_threads.Team, "run", run_and_break_up)

    return break_up_after


def wait_until(condition):
    end_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end_s, "no thread came"
        time.sleep(1e-5)
