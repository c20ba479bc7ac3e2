"""What a call runs, as the check of commits sees it: on a package that is made up, and on one that is compiled."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import _fingerprints
from _fingerprints import canonical_code, canonical_source, difference

from rnnkernels.kernels.jit import COMPILER_IS_OFF

SCRIPTS = Path(_fingerprints.__file__).parent

LLVM = """\
; ModuleID = 'one'
@_ZN4stepB2v3B4flag = common global ptr null
@".const.missing Environment: _ZN4stepB2v3" = internal constant [40 x i8] c"v3"

define i64 @_ZN4stepB2v3B4flag(i64 %arg.n) {
B0:
  br label %B38.lr.ph

B38.lr.ph:                                        ; preds = %B0
  %x.1 = add i64 %arg.n, 1
  %0 = call i64 @_ZN5innerB2v7(i64 %x.1)
  ret i64 %0
}
"""


def test_machine_code__is_the_same_whatever_the_process_compiled_before():
    other = LLVM.replace("v3", "v1234").replace("v7", "v9").replace("B38", "B7612").replace("'one'", "'two'")
    assert canonical_code(other) == canonical_code(LLVM) != LLVM


MOVED = """\
@_ZN08NumbaEnv4made7kernels5first4stepB2v3 = common global ptr null

define i64 @_ZN4made7kernels5first4stepB2v3(i64 %n) {
  %0 = call i64 @_ZN4made7kernels4team5innerB2v7(i64 %n), !noalias !0
  ret i64 %0
}
!0 = !{!1}
!1 = distinct !{!1, !2, !"_ZN4made7kernels4team5innerB2v7: %retptr"}
"""


def test_machine_code__is_the_same_in_another_module():
    other = MOVED.replace("5first", "12second_first").replace("4team5innerB2v7: ", "4team5innerB2v9: ")
    other = f"@_ZN08NumbaEnv4made7kernels4team5innerB2v7 = common global ptr null\n{other}"
    assert canonical_code(other) == canonical_code(MOVED)
    for old, new in (("5inner", "5other"), ("4step", "4stop"), ("!noalias !0", "!noalias !1"), ("!{!1}", "!{!2}")):
        assert canonical_code(MOVED.replace(old, new)) != canonical_code(MOVED)


def test_machine_code__tells_functions_of_one_name_apart():
    """As Numba numbers them where their types are the same."""
    first, second = "call i64 @_ZN5innerB2v7(i64 1)", "call i64 @_ZN5innerB2v9(i64 1)"
    assert canonical_code(f"  {first}\n  {second}") != canonical_code(f"  {first}\n  {first}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("add i64", "sub i64"),
        ("%arg.n, 1", "%arg.n, 2"),
        ("%x.1)", "%arg.n)"),
        ("@_ZN5innerB2v7", "@_ZN4stepB2v3B4flag"),
        ("br label %B38.lr.ph", "br label %B0"),
        ("ret i64 %0", "ret i64 %x.1"),
    ],
)
def test_machine_code__that_differs_is_told_apart(old, new):
    assert canonical_code(LLVM.replace(old, new)) != canonical_code(LLVM)


def test_source__counts_without_comments_and_docstrings():
    source = 'def f(x):\n    "Doc."\n    return x + 1\n'
    assert canonical_source(source) == canonical_source("def f(x):\n    # a comment\n\n    return (x + 1)\n")
    assert canonical_source(source) != canonical_source(source.replace("1", "2"))


PACKAGE = {
    "__init__.py": "from made_up import a, b",
    "a.py": """
        from made_up import tools
        from made_up.kernels import layer

        def call():
            return layer.kernel(tools.one(), 2.0) + layer.python()
        """,
    "b.py": "def call():\n    return 2",
    "tools.py": "def one():\n    return 1.0\n\ndef unused():\n    return 3.0",
    "kernels/__init__.py": "",
    "kernels/layer.py": """
        from numba import njit

        CONSTANT = 3.0

        @njit(cache=True)
        def kernel(x, y):
            return x * y + CONSTANT

        @njit(cache=True)
        def other(x):
            return x

        def python():
            return 1.0
        """,
}
PROGRAM = """
import json, sys
from pathlib import Path
sys.path[:0] = [{scripts!r}, "."]
from _fingerprints import Recorder
recorder = Recorder(Path("made_up").resolve())
import made_up
from made_up import a, b
recorder.imported()
print(json.dumps([recorder.fingerprint(a.call), recorder.fingerprint(b.call)]))
"""


def fingerprints(folder, **changed):
    """Of the two calls of the package, with some files changed by replacing a text."""
    for name, source in PACKAGE.items():
        path = folder / "made_up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        old, new = changed.get(path.stem, ("", ""))
        path.write_text(textwrap.dedent(source).replace(old, new), encoding="utf-8")
    program = PROGRAM.format(scripts=str(SCRIPTS))
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / "numba")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(COMPILER_IS_OFF or not hasattr(os, "fork"), reason="needs Numba's compiler and os.fork")
def test_fingerprint__changes_with_what_a_call_runs_and_with_nothing_else(tmp_path):
    a, b = fingerprints(tmp_path / "0")
    assert set(a) == {"kernel", "made_up/a.py", "made_up/tools.py", "made_up/kernels/layer.py"}
    assert set(b) == {"made_up/b.py"}
    cases = [
        ({"layer": ("return x\n\n", "return x + 1\n\n# a comment\n\n"), "b": ("2", "3")}, set()),
        ({"layer": ("x * y", "x - y"), "tools": ("1.0", "2.0")}, {"kernel", "made_up/tools.py"}),
        ({"layer": ("return 1.0", "return 2.0")}, {"made_up/kernels/layer.py"}),
        (
            {"layer": ("import njit", "import njit\nfrom math import sin as CONSTANT_OF_NOBODY")},
            {"made_up/kernels/layer.py"},
        ),
        ({"layer": ("CONSTANT = 3.0", "CONSTANT = 3.0; ANOTHER = 4.0")}, {"made_up/kernels/layer.py"}),
    ]
    for number, (changed, expected) in enumerate(cases, 1):
        other, other_b = fingerprints(tmp_path / str(number), **changed)
        assert set(difference(a, other)) == expected, changed
        assert (other_b == b) == ("b" not in changed)


def test_import__counts_unless_machine_code_alone_is_made_of_it():
    def part(imports, ran):
        source = f"{imports}\n\nSIZE = two\n\ndef compiled(x):\n    return one * x\n\ndef python():\n    return three\n"
        lines = {source[: source.index(f"def {name}")].count("\n") + 1 for name in ran}
        return _fingerprints.Source("p/kernels/layer.py", source.encode()).part(lines)

    imports = "from a import one, two, three, four"
    for name, ran, counts in (
        ("one", [], False),
        ("one", ["compiled"], True),
        ("two", [], True),
        ("three", [], False),
        ("three", ["python"], True),
        ("four", [], True),
    ):
        moved = f"{imports.replace(f', {name}', '').replace(f'{name}, ', '')}; from b import {name}"
        assert (part(moved, ran) != part(imports, ran)) == counts, (name, ran)


def test_difference__does_not_ask_for_the_names_of_modules_of_kernels():
    base = {"step": "0", "p/a.py": "1", "p/kernels/layer.py": "2"}
    assert difference(base, base | {"p/kernels/copy.py": "2"}) == []
    assert difference(base, {"step": "0", "p/a.py": "1", "p/kernels/renamed.py": "2"}) == []
    assert difference(base, base | {"p/kernels/copy.py": "3"}) == ["p/kernels/copy.py"]
    assert difference(base, base | {"p/b.py": "1"}) == ["p/b.py"]
    assert difference(base | {"p/kernels/b.py": "3"}, base | {"p/kernels/b.py": "2"}) == ["p/kernels/b.py"]
    assert difference(base, base | {"step": "2"}) == ["step"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_child__that_fails_proves_nothing():
    assert _fingerprints.in_child(lambda: 1 / 0) is None
    assert _fingerprints.in_child(lambda: {"step": "1"}) == {"step": "1"}
