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
        words, others = self._run.words, self.threads - 1

        def enter_last(*arguments):
            if arguments[len(data) + 1]:  # the leader
                words[team.BELL] = team.RUNG
                wait_until(lambda: words[team.JOINED] % team.CLOSED >= others)
                joined.append(others)
            kernel(*arguments)

        wait_until(lambda: others == 0 or self._pool.roster[team.AWAKE] >= others)
        run(self, enter_last, data, work)

    monkeypatch.setattr(_threads, "THREAD_FLOPS", 1.0)
    monkeypatch.setattr(team, "FORGIVEN_WAITS", 1 << 60)
    monkeypatch.setattr(team, "IDLE_TURNS", 10**6)
    monkeypatch.setattr(_threads.Team, "run", run_with_all)
    return joined


@pytest.fixture
def broken_teams(monkeypatch, whole_teams):
    """Have whole teams break up between their first two chunks of steps."""
    run = _threads.Team.run

    def run_and_break_up(self, kernel, data, work):
        self._run.words[team.BROKEN_UP] = self.threads > 1
        run(self, kernel, data, work)

    monkeypatch.setattr(_threads.Team, "run", run_and_break_up)
    return whole_teams


def wait_until(condition):
    end_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end_s, "no thread came"
        time.sleep(1e-5)
