"""The measured limits of the machine."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers import DTYPES

from rnnkernels import roofline
from rnnkernels.kernels import roofline as kernels
from rnnkernels.kernels import simd


@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply_add__computes_every_turn_of_every_chain(dtype):
    width = simd.lanes_of(np.dtype(dtype))
    values = np.arange((kernels.CHAINS + 2) * width, dtype=dtype)
    values[-2 * width : -width] = 0.5
    values[-width:] = 1.0
    want = values.copy()
    for _ in range(3):
        want[: -2 * width] = want[: -2 * width] * 0.5 + 1.0
    assert kernels.multiply_add(values, 3) == 3 * 2 * kernels.CHAINS * width
    np.testing.assert_array_equal(values, want)


def test_read_again__reads_every_element_of_every_pass():
    block = kernels.READERS * simd.VECTOR_BYTES // 4
    buffer = np.arange(3 * block, dtype=np.float32)
    assert kernels.read_again(buffer, 2) == 2 * buffer.sum()


@pytest.mark.parametrize("threads", [1, 2])
def test_limits__are_in_the_order_that_every_machine_has(threads):
    """Best of some tries: others may have the processors during one."""

    def best(limit, *arguments):
        return max(limit(*arguments, threads) for _ in range(3))

    assert best(roofline.fma_peak, np.float32) > 1.2 * best(roofline.fma_peak, np.float64)
    assert best(roofline.read_bandwidth, 16 << 10) > best(roofline.read_bandwidth, 256 << 20)


def test_limits__name_what_is_wrong():
    with pytest.raises(TypeError, match="`dtype` must be float32 or float64; got int32"):
        roofline.fma_peak(np.int32)
    with pytest.raises(ValueError, match="`num_threads` must be at least 1; got 0"):
        roofline.fma_peak(num_threads=0)
    with pytest.raises(ValueError, match="`n_bytes` must be at least 1; got 0"):
        roofline.read_bandwidth(0)


def test_limits__are_those_of_the_processors_that_there_are():
    before = threading.active_count()
    assert roofline.fma_peak(num_threads=100_000) > 0
    assert threading.active_count() <= before + 1


@pytest.mark.skipif(sys.platform == "win32", reason="no timer that interrupts a process")
def test_limits__may_be_interrupted_at_any_time():
    """The process ends; helpers neither wait for ever nor hold it up."""
    code = """
import random, signal
from rnnkernels import roofline
signal.signal(signal.SIGALRM, signal.default_int_handler)
roofline.available_threads = lambda: 8
roofline.fma_peak(num_threads=8)
for attempt in range(12):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.05))
        while True:
            roofline.fma_peak(num_threads=8)
    except KeyboardInterrupt:
        pass
print("ended")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.stdout, result.stderr, result.returncode) == ("ended\n", "", 0)


def test_read_bandwidth__looks_up_between_pieces_of_a_large_buffer(monkeypatch):
    sizes = []
    read = kernels.read_again
    monkeypatch.setattr(roofline, "PIECE_BYTES", 4096)
    monkeypatch.setattr(kernels, "read_again", lambda piece, passes: sizes.append(piece.nbytes) or read(piece, passes))
    assert roofline.read_bandwidth(10_000) > 0
    assert set(sizes) == {4096, 10_240 - 2 * 4096}
