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
def poisoned_memory(monkeypatch):
    """Fill every fresh array of the package with NaN, so that reading before writing shows."""
    empty, aligned_empty = _memory.empty, _memory.aligned_empty

    def poisoned(allocate):
        def allocate_poisoned(shape, dtype):
            array = allocate(shape, dtype)
            array.fill(np.nan)
            return array

        return allocate_poisoned

    modules = [module for name, module in sys.modules.items() if name.startswith("rnnkernels")]
    for name, allocate in (("empty", empty), ("aligned_empty", aligned_empty)):
        for module in modules:
            if getattr(module, name, None) is allocate:
                monkeypatch.setattr(module, name, poisoned(allocate))
