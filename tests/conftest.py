import sys
from pathlib import Path

import numpy as np
import pytest

from rnnkernels import _memory

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
