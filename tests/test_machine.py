"""What the scripts know of the machine: where psutil and py-cpuinfo tell, and where they do not."""

import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import _machine


@pytest.fixture
def processor_name(monkeypatch):
    """The name of the processor according to a function that stands in for py-cpuinfo's."""

    def name(get_cpu_info):
        monkeypatch.setattr(_machine.cpuinfo, "get_cpu_info", get_cpu_info)
        _machine._processor_name.cache_clear()
        return _machine.describe()["processor"]

    yield name
    _machine._processor_name.cache_clear()


def test_processor__has_its_brand_or_what_the_platform_says(processor_name):
    def unknown():
        raise Exception("not this processor")  # as py-cpuinfo does

    assert processor_name(lambda: {"brand_raw": "A processor"}) == "A processor"
    assert processor_name(dict)
    assert processor_name(unknown)


def test_cpus__are_those_that_the_process_may_use_with_first_threads_of_cores_first():
    cpus = _machine.available_cpus()
    allowed = psutil.Process().cpu_affinity() if _machine.HAS_AFFINITY else range(os.cpu_count())
    assert sorted(cpus) == sorted(allowed)
    ranks = [_machine._rank_in_core(cpu) for cpu in cpus]
    assert ranks == sorted(ranks)
    assert 1 <= _machine.physical_cores() <= len(cpus)


@pytest.mark.skipif(not _machine.HAS_AFFINITY, reason="the system has no affinities")
def test_confined_processes__inherit_cpus_and_variables():
    before = psutil.Process().cpu_affinity()
    code = "import os, psutil; print(psutil.Process().cpu_affinity(), os.environ['GIVEN'])"
    with _machine._confined(before[:1], {"GIVEN": "so"}):
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == f"{before[:1]} so\n"
    assert psutil.Process().cpu_affinity() == before
    assert "GIVEN" not in os.environ


Times = namedtuple("Times", ["user", "system", "idle"])
"""As on macOS and Windows: fewer fields than on Linux."""


@pytest.fixture
def clock(monkeypatch):
    """Seconds on the clock, of all processes, and of each of ours, which a test sets; None: there is none."""
    now = {"clock": 0.0, "all": 1.0, "ours": 0.0}

    class Process:
        def __init__(self, process):
            if process < 0:
                raise psutil.NoSuchProcess(process)

        def cpu_times(self):
            if now["ours"] is None:
                raise psutil.NoSuchProcess(1)
            return Times(now["ours"], 0.0, 0.0)

    def cpu_times():
        if now["all"] is None:
            raise FileNotFoundError
        return Times(now["all"], 1.0, 1000.0 * now["clock"])

    monkeypatch.setattr(_machine.time, "perf_counter", lambda: now["clock"])
    monkeypatch.setattr(_machine.psutil, "Process", Process)
    monkeypatch.setattr(_machine.psutil, "cpu_times", cpu_times)
    return now


def test_other_load__is_what_others_keep_busy(clock):
    load = _machine.OtherLoad([1, 2, -1])  # one has ended already
    clock.update(clock=10.0, all=18.0, ours=1.0)
    assert load.cores() == pytest.approx((17.0 - 2 * 1.0) / 10.0)
    clock.update(ours=100.0)  # clocks of processes and of the system tick apart
    assert load.cores() == 0.0


def test_other_load__goes_on_without_a_process_that_has_ended(clock):
    load = _machine.OtherLoad([1])
    clock.update(clock=10.0, all=11.0, ours=None)
    assert load.cores() == pytest.approx(1.0)


def test_other_load__is_unknown_where_the_system_does_not_tell(clock):
    clock["all"] = None
    load = _machine.OtherLoad([1])
    clock["clock"] = 10.0
    assert load.cores() is None


def test_other_load__counts_a_busy_process():
    load = _machine.OtherLoad([os.getpid()])
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    assert load.cores() > 0
