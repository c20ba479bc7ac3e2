"""The disk cache: it serves a fresh process, and never serves stale code."""

import ast
import concurrent.futures
import contextlib
import gc
import importlib
import io
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rnnkernels
from rnnkernels.kernels import embedding, jit, loss
from rnnkernels.kernels.cell import cells

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
        timeout=1200,
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


def modules_of_kernels():
    folder = Path(jit.__file__).parent
    return [f"{jit.PACKAGE}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


@pytest.mark.parametrize("module", modules_of_kernels())
def test_imports__are_all_that_a_module_imports(module):
    importlib.import_module(module)
    tree = ast.parse(Path(sys.modules[module].__file__).read_text(encoding="utf-8"))
    expected = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == jit.PACKAGE:
            expected |= {f"{jit.PACKAGE}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith(jit.PACKAGE):
            expected.add(node.module)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith(jit.PACKAGE) for alias in node.names), "no stamp would know of this"
    assert jit.imports(module) == expected


EDITS = {
    "activations": {"lstm", "gru", "rnn", "loss"},
    "lstm": {"lstm"},
    "gru": {"gru"},
    "loss": {"loss"},
    "embedding": {"embedding"},
    "passes": {"lstm", "gru", "rnn"},
    "micro_kernel": {"lstm", "gru", "rnn", "loss"},
    "simd": {"lstm", "gru", "rnn", "loss", "embedding"},
}


@pytest.mark.parametrize("module", EDITS)
def test_stamps__change_with_what_a_kernel_is_made_of(module, monkeypatch):
    kernels = {name: cells[name].forward.py_func for name in ("lstm", "gru", "rnn")}
    kernels |= {"loss": loss.affine_scores.py_func, "embedding": embedding.word_embedding_gather.py_func}
    before = {name: jit.source_stamp(kernel) for name, kernel in kernels.items()}
    read = jit._source.__wrapped__
    edited = f"{jit.PACKAGE}.{module}"
    monkeypatch.setattr(jit, "_source", lambda name: read(name) + "# edited" * (name == edited))
    jit._stamp_of_sources.cache_clear()
    changed = {name for name, kernel in kernels.items() if jit.source_stamp(kernel) != before[name]}
    jit._stamp_of_sources.cache_clear()
    assert changed == EDITS[module]


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


def zeros_in_the_middle(data):
    middle = len(data) // 2
    return data[:middle] + bytes(min(4096, len(data) - middle)) + data[middle + 4096 :]


def a_bit_of_the_pickle(data):
    return data[:70] + bytes([data[70] ^ 1]) + data[71:]


DAMAGES = {
    "the second half is missing": lambda data: data[: len(data) // 2],
    "zeros in the middle": zeros_in_the_middle,
    "a bit of the pickle": a_bit_of_the_pickle,
    "the last bit": lambda data: data[:-1] + bytes([data[-1] ^ 0x80]),
}


@pytest.fixture(scope="module")
def kept_code(tmp_path_factory):
    """A copy of the package with the machine code of a call."""
    folder = tmp_path_factory.mktemp("kept")
    shutil.copytree(
        Path(rnnkernels.__file__).parent, folder / "rnnkernels", ignore=shutil.ignore_patterns("__pycache__")
    )
    run(folder)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_disk_cache__that_is_damaged_is_written_anew(kept_code, damage):
    files = list((kept_code / "cache").rglob("*.nbc"))
    assert files
    for path in files:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert run(kept_code) == ["0.5", "0"]
    assert run(kept_code) == ["0.5", "1"]


def test_code_files__give_back_only_what_was_saved(tmp_path, rng):
    """Every damage of a few bytes, each of which a pickle would answer in its own way."""
    files = jit.CodeFiles(run, str(tmp_path), "kernel")
    saved = {"code": bytes(range(256)), "types": (1, "two", [3.0])}
    files.save("key", saved)
    assert files.load("key") == saved
    with pytest.raises(FileNotFoundError):
        files.load("another key")
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << rng.integers(8))]) + whole[place + 1 :])
        assert files.load("key") is None
        path.write_bytes(whole[:place])
        assert files.load("key") is None
    files.save("key", saved)
    assert files.load("key") == saved
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("is_on", [True, False])
def test_machine_code__is_made_without_collections_of_garbage(is_on):
    class Kernel:
        """In the place of one that Numba compiles."""

        def compile(self, signature):
            assert not gc.isenabled()
            if signature == ("refused",):
                raise ValueError("refused")
            return signature

    was_on = gc.isenabled()
    try:
        (gc.enable if is_on else gc.disable)()
        assert jit.machine_code(Kernel(), ("taken",)) == ("taken",)
        with pytest.raises(ValueError, match="refused"):
            jit.machine_code(Kernel(), ("refused",))
        assert gc.isenabled() == is_on
    finally:
        (gc.enable if was_on else gc.disable)()


def test_disk_cache__whose_code_cannot_be_used_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(jit.FunctionCache, "load_overload", lambda *_: pickle.loads(b"no pickle"))
    cache = object.__new__(jit.PackageCache)
    assert cache.load_overload(None, None) is None


def test_without_the_compiler__only_the_reference_computes(copy_of_package):
    code = """
import numpy as np, rnnkernels
print(float(rnnkernels.reference.sigmoid(np.zeros(1))[0]))
words, table, x = np.zeros((1, 2), int), np.ones((3, 4)), np.ones((1, 2, 4))
for call in (
    lambda: rnnkernels.sigmoid([0.0]),
    lambda: rnnkernels.word_embedding_forward(words, table),
    lambda: rnnkernels.temporal_affine_forward(x, np.ones((4, 3)), np.ones(3)),
    lambda: rnnkernels.temporal_softmax_loss(x, words, words == 0),
    lambda: rnnkernels.temporal_affine_softmax_loss(x, np.ones((4, 3)), np.ones(3), words, words == 0),
    lambda: rnnkernels.rnn_forward(x, np.zeros((1, 4)), np.ones((4, 4)), np.ones((4, 4)), np.ones(4)),
    lambda: rnnkernels.RNNStream(np.ones((4, 4)), np.ones((4, 4)), np.ones(4)),
    lambda: rnnkernels.roofline.fma_peak(),
):
    try:
        call()
    except RuntimeError as error:
        print("reference" if "NUMBA_DISABLE_JIT" in str(error) and "reference" in str(error) else error)
"""
    assert run(copy_of_package, code, NUMBA_DISABLE_JIT="1") == ["0.5", *["reference"] * 8]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork__while_another_thread_compiles_waits_for_it(copy_of_package):
    """The child would find the compiler's lock held by a thread that it does not have."""
    code = """
import os, threading, time, warnings
import numpy as np
import rnnkernels
warnings.simplefilter("ignore")  # newer Pythons warn of any fork beside threads
shapes = (2, 3, 4), (2, 5), (4, 5), (5, 5), (5,)
other = threading.Thread(target=lambda: rnnkernels.rnn_forward(*(np.ones(s, np.float32) for s in shapes)))
other.start()
time.sleep(0.3)
child = os.fork()
if child == 0:
    os._exit(42 if rnnkernels.sigmoid(0.0) == 0.5 else 1)
deadline = time.monotonic() + 600
status = (0, 0)
while status[0] == 0 and time.monotonic() < deadline:
    status = os.waitpid(child, os.WNOHANG)
    time.sleep(0.05)
if status[0] == 0:
    os.kill(child, 9)
other.join()
print(os.waitstatus_to_exitcode(status[1]) if status[0] else "hangs")
"""
    assert run(copy_of_package, code) == ["42"]


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
def test_kernels__are_right_with_the_vectors_of_other_hosts(copy_of_package):
    """Those of NEON, AVX2 and AVX-512, but for its scaling; LLVM splits and spills what is not there.

    Each in a process of its own, side by side, since nearly all of the time goes into compilation.
    """
    code = """
import numpy as np
import rnnkernels
from rnnkernels import reference
rng = np.random.default_rng(0)
for cell, gates, options in (("rnn", 1, {}), ("gru", 3, {"reset_after": False})):
    for N, T, D, H in ((1, 9, 3, 35), (2, 4, 3, 33), (3, 4, 40, 70), (7, 6, 40, 33), (13, 5, 5, 20)):
        shapes = (N, T, D), (N, H), (D, gates * H), (H, gates * H), (gates * H,)
        args = [0.5 * rng.standard_normal(shape) for shape in shapes]
        dh = rng.standard_normal((N, T, H))
        h, cache = getattr(rnnkernels, cell + "_forward")(*args, **options)
        expected, tape = getattr(reference, cell + "_forward")(*args, **options)
        gradients = getattr(rnnkernels, cell + "_backward")(dh, cache)
        for got, want in zip((h, *gradients), (expected, *getattr(reference, cell + "_backward")(dh, tape))):
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)
print("right")
"""

    def on_host(vector_bytes, registers):
        folder = copy_of_package.with_name(f"{copy_of_package.name}_{vector_bytes}")
        shutil.copytree(copy_of_package, folder)
        edit(
            folder / "rnnkernels" / "kernels" / "simd.py",
            "VECTOR_BYTES, VECTOR_REGISTERS, HAS_AVX512 = _host_vectors()",
            f"VECTOR_BYTES, VECTOR_REGISTERS, HAS_AVX512 = {vector_bytes}, {registers}, False",
        )
        return run(folder, code + SIGMOIDS)

    here = ["right", sigmoids_here()]
    with concurrent.futures.ThreadPoolExecutor() as executor:
        assert list(executor.map(on_host, (16, 32, 64), (32, 16, 32))) == [here] * 3
