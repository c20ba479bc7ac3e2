"""The disk cache: it serves a fresh process, and never serves stale code."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rnnkernels

CALL = """
import numpy as np
import rnnkernels
from rnnkernels.kernels.activations import sigmoid_of_array
print(float(rnnkernels.sigmoid(np.float64(0.0))), sum(sigmoid_of_array.stats.cache_hits.values()))
"""


@pytest.fixture
def copy_of_package(tmp_path):
    """A copy of the package in which files may be edited, with an empty cache."""
    source = Path(rnnkernels.__file__).parent
    shutil.copytree(source, tmp_path / "rnnkernels", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(folder, code=CALL, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(folder / "cache"), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_disk_cache__serves_a_fresh_process(copy_of_package):
    assert run(copy_of_package) == ["0.5", "0"]
    assert run(copy_of_package) == ["0.5", "1"]


def test_disk_cache__notices_an_edit_in_another_file(copy_of_package):
    assert run(copy_of_package) == ["0.5", "0"]
    simd = copy_of_package / "rnnkernels" / "kernels" / "simd.py"
    stamp = simd.stat()
    # As treacherous as an edit can be: a helper of another module, of the same length, with the same time.
    edit(simd, '_define_operator(operator.truediv, "fdiv")', '_define_operator(operator.truediv, "fmul")')
    os.utime(simd, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert run(copy_of_package)[0] != "0.5"


def test_disk_cache__keeps_vector_widths_apart(copy_of_package):
    run(copy_of_package)
    assert run(copy_of_package, RNNKERNELS_VECTOR_BYTES="16") == ["0.5", "0"]


def test_disk_cache__can_be_switched_off(copy_of_package):
    for _ in range(2):
        assert run(copy_of_package, RNNKERNELS_CACHE="0") == ["0.5", "0"]
    assert not (copy_of_package / "cache").exists()


def test_disk_cache__that_cannot_be_written_is_no_error(copy_of_package):
    code = (
        """
import numba.core.caching as caching
def nowhere(*args):
    raise PermissionError("read-only")
caching._CacheLocator.ensure_cache_path = nowhere
"""
        + CALL
    )
    assert run(copy_of_package, code) == ["0.5", "0"]


def test_disk_cache__that_is_damaged_is_compiled_anew(copy_of_package):
    run(copy_of_package)
    damaged = [path for path in (copy_of_package / "cache").rglob("*") if path.suffix in (".nbi", ".nbc")]
    assert damaged
    for path in damaged:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert run(copy_of_package) == ["0.5", "0"]


SIGMOIDS = """
import hashlib
numbers = (np.linspace(-110, 20, 130001).astype(np.float32), np.linspace(-760, 50, 81001))  # some results are subnormal
print(hashlib.sha256(b"".join(rnnkernels.sigmoid(x).tobytes() for x in numbers)).hexdigest())
"""


def sigmoids_here():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(SIGMOIDS, {"np": np, "rnnkernels": rnnkernels})
    return printed.getvalue().strip()


@pytest.mark.slow
@pytest.mark.parametrize(("vector_bytes", "registers"), [(16, 32), (32, 16), (64, 32)])
def test_kernels__are_right_with_the_vectors_of_other_hosts(copy_of_package, vector_bytes, registers):
    """Those of NEON, AVX2 and AVX-512, but for its scaling; LLVM splits and spills what is not there."""
    simd = copy_of_package / "rnnkernels" / "kernels" / "simd.py"
    edit(
        simd,
        "VECTOR_BYTES, VECTOR_REGISTERS, SCALES_BY_POWERS = _host_vectors()",
        f"VECTOR_BYTES, VECTOR_REGISTERS, SCALES_BY_POWERS = {vector_bytes}, {registers}, False",
    )
    code = """
import numpy as np
import rnnkernels
from rnnkernels import reference
rng = np.random.default_rng(0)
for cell, gates in (("lstm", 4), ("rnn", 1), ("gru", 3)):
    for N, T, D, H in ((1, 9, 3, 35), (2, 4, 3, 33), (3, 4, 40, 70), (7, 6, 40, 33), (13, 5, 5, 20)):
        shapes = (N, T, D), (N, H), (D, gates * H), (H, gates * H), (gates * H,)
        args = [0.5 * rng.standard_normal(shape) for shape in shapes]
        dh = rng.standard_normal((N, T, H))
        h, cache = getattr(rnnkernels, cell + "_forward")(*args)
        expected, tape = getattr(reference, cell + "_forward")(*args)
        gradients = getattr(rnnkernels, cell + "_backward")(dh, cache)
        for got, want in zip((h, *gradients), (expected, *getattr(reference, cell + "_backward")(dh, tape))):
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)
print("right")
"""
    assert run(copy_of_package, code + SIGMOIDS) == ["right", sigmoids_here()]
