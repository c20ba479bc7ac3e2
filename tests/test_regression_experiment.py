"""The experiment that slows kernels down: what it plants is there, and changes no result."""

import ast
import sys
from pathlib import Path

import pytest
from numba import njit

from rnnkernels.kernels.cell import cells
from rnnkernels.kernels.trace import clock, read_clock

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import regression_experiment as experiment
from regression_experiment import ROOT


@pytest.mark.parametrize("kernel", experiment.KERNELS, ids=lambda kernel: kernel.name)
def test_slow_down__is_in_its_kernel_alone(kernel):
    source = (ROOT / experiment.KERNELS_FOLDER / kernel.file).read_text(encoding="utf-8")
    before, after = (_functions(text) for text in (source, experiment.slowed(source, kernel, 10)))
    assert [name for name, text in after.items() if text != before[name]] == [kernel.function]
    last = before[kernel.function].splitlines()[-1]
    if last.startswith("    return "):  # what comes behind it would never run
        assert after[kernel.function].splitlines()[-1] == last


@pytest.mark.parametrize("kernel", experiment.KERNELS, ids=lambda kernel: kernel.name)
def test_planting__changes_what_its_cell_is_made_of_alone(tmp_path, kernel):
    copy = experiment.Copy(tmp_path / "copy", [], [])
    planted = copy.plant(kernel, 10)
    changed = experiment._run("git", "-C", str(copy.folder), "diff", "--name-only", copy.commit, planted).split()
    names = {kernel.user, f"slowed_{kernel.file}"} if kernel.user else {kernel.file}
    assert set(changed) == {(experiment.KERNELS_FOLDER / name).as_posix() for name in names}


def test_module_that_uses_no_pass__says_so():
    with pytest.raises(SystemExit, match=r"rnn.py does not import from passes.py"):
        experiment.with_copy("x = 1", experiment.KERNELS[0], "slowed_passes")


def _functions(source):
    return {node.name: ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def test_conditions__tell_cells_apart():
    by_condition = {name: [] for name in experiment.CELLS}
    for key, cell in cells.items():
        known = cell.forward.py_func.__globals__
        for name, condition in experiment.CELLS.items():
            if eval(condition, {part: known[part] for part in ("GATES", "LATE", "OWN")}):
                by_condition[name].append(key.partition("_")[0])
    assert {name: set(kinds) for name, kinds in by_condition.items()} == {
        name: {name.partition("_")[0]} for name in experiment.CELLS
    }


SPIN = '''
from rnnkernels.kernels.trace import clock

def spin(ticks):
    """Turn around for so long."""
    end = clock() + ticks
    while clock() < end:
        pass
'''


def test_slow_down__takes_so_much_longer():
    ticks, least = 2_000_000, []
    for source in (SPIN, experiment.slowed(SPIN, experiment.Kernel("spin", "", "spin"), 50)):
        namespace = {"__name__": __name__, "clock": clock}
        exec(compile(source, __file__, "exec"), namespace)
        spin = njit(namespace["spin"])
        spin(1)
        took = []
        for _ in range(5):
            begin = read_clock()
            spin(ticks)
            took.append(read_clock() - begin)
        least.append(min(took))
    assert least[0] >= ticks
    assert least[1] >= 1.5 * ticks


def test_slow_down__of_a_function_that_is_gone_says_so():
    with pytest.raises(SystemExit, match="no function"):
        experiment.slowed("x = 1", experiment.KERNELS[0], 10)
