"""The house rules that a machine can check."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers import GATES, function, kind

import rnnkernels
from rnnkernels import convert, kernels, reference
from rnnkernels.kernels.cell import cells

PACKAGE = Path(rnnkernels.__file__).parent
ROOT = PACKAGE.parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
FUNCTIONS = {"onnx.load": rnnkernels.onnx.load} | {
    name: getattr(module, name)
    for module in (rnnkernels, convert)
    for name in module.__all__
    if inspect.isfunction(getattr(module, name))
}
CONTRACT = {
    "rnn_step_forward": "x prev_h Wx Wh b",
    "rnn_step_backward": "dnext_h cache",
    "rnn_forward": "x h0 Wx Wh b",
    "rnn_backward": "dh cache",
    "gru_step_forward": "x prev_h Wx Wh b",
    "gru_step_backward": "dnext_h cache",
    "gru_forward": "x h0 Wx Wh b",
    "gru_backward": "dh cache",
    "lstm_step_forward": "x prev_h prev_c Wx Wh b",
    "lstm_step_backward": "dnext_h dnext_c cache",
    "lstm_forward": "x h0 Wx Wh b",
    "lstm_backward": "dh cache",
    "word_embedding_forward": "x W",
    "word_embedding_backward": "dout cache",
    "sigmoid": "x",
    "temporal_affine_forward": "x w b",
    "temporal_affine_backward": "dout cache",
    "temporal_softmax_loss": "x y mask verbose",
    "temporal_affine_softmax_loss": "x w b y mask",
}


def imports(path):
    """Names of the modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports__go_down_only(path):
    names = set(imports(path))
    in_kernels = path.parent.name == "kernels"
    if not in_kernels:
        assert not {name for name in names if name.split(".")[0] in ("numba", "llvmlite")}
    if in_kernels:
        inside = {name for name in names if name.split(".")[0] == "rnnkernels"}
        assert all(name.startswith("rnnkernels.kernels") for name in inside)
    if path.parent.name == "_checks":
        inside = {name for name in names if name.split(".")[0] == "rnnkernels"}
        assert all(name.startswith(("rnnkernels._checks.", "rnnkernels.kernels")) for name in inside)
    outside = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    if path.name == "_results.py":
        assert outside == {"numpy"}
    if path.name == "reference.py":
        assert outside == {"numpy", "rnnkernels._results"}
    assert {name.split(".")[0] for name in outside} <= {"numpy", "rnnkernels", "numba", "llvmlite"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_raise__stands_in_checks_only(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    raises = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    # Functions that users compile cannot call Python to check what they pass.
    assert path.parent.name == "_checks" or path.name == "nopython.py" or not raises


@pytest.mark.parametrize("module", [rnnkernels, reference], ids=["rnnkernels", "reference"])
@pytest.mark.parametrize("name", CONTRACT)
def test_signature__is_the_contract(module, name):
    parameters = inspect.signature(getattr(module, name)).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == CONTRACT[name].split()
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring__lists_the_arguments_and_what_comes_of_them(name):
    function = FUNCTIONS[name]
    doc = inspect.getdoc(function)
    parameters = list(inspect.signature(function).parameters)
    if parameters:
        block = doc.split("Parameters\n----------\n")[1].split("\n\n")[0]
        documented = re.findall(r"^\*{0,2}(\w+(?:, \w+)*) : ", block, flags=re.MULTILINE)
        assert [argument for entry in documented for argument in entry.split(", ")] == parameters
    if inspect.signature(function).return_annotation is not None:
        assert "Returns\n-------\n" in doc
    if parameters:
        assert "Raises\n------\n" in doc
    assert "Examples\n--------\n" in doc


def test_public_names__differ_and_exist():
    assert len(set(rnnkernels.__all__)) == len(rnnkernels.__all__)  # ruff knows their order
    assert all(hasattr(rnnkernels, name) for name in rnnkernels.__all__)
    assert set(CONTRACT) <= set(rnnkernels.__all__)


def test_kernels__compile_once_per_dtype():
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        for cell, gates in GATES.items():
            for N, T in ((1, 1), (3, 2), (2, 0)):
                shapes = (N, T, 3), (N, 4), (3, gates * 4), (4, gates * 4), (gates * 4,)
                args = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
                for array in args:
                    array.setflags(write=False)
                h, cache = function(rnnkernels, cell, "forward")(*args)
                function(rnnkernels, cell, "forward")(*args, keep_cache=False)
                function(rnnkernels, cell, "backward")(h, cache)
                stream = kind(rnnkernels, cell, "Stream")(*args[2:], args[1])
                stream.steps(args[0])
                stream.step(args[1][:, :3])
                scores, cache = rnnkernels.temporal_affine_forward(h, args[3], args[4])
                _, dscores = rnnkernels.temporal_softmax_loss(scores, np.zeros((N, T), int), np.ones((N, T)))
                rnnkernels.temporal_affine_backward(dscores, cache)
                labels = np.zeros((N, T), int), np.ones((N, T))
                rnnkernels.temporal_affine_softmax_loss(h, args[3], args[4], *labels)
                rnnkernels.temporal_affine_softmax_loss(h, args[3], args[4], *labels, gradients=False)
                words = np.zeros((N, T), int)
                embedded, cache = rnnkernels.word_embedding_forward(words, args[2])
                rnnkernels.word_embedding_backward(embedded, cache)
                rnnkernels.sigmoid(args[0])
    counts = {}
    for module in pkgutil.iter_modules(kernels.__path__):
        for name, found in vars(importlib.import_module(f"{kernels.__name__}.{module.name}")).items():
            if hasattr(found, "signatures") and not found.targetoptions.get("forceinline"):
                counts[name] = len(found.signatures)
    for cell in cells.values():
        for kernel in (cell.forward, cell.backward, cell.stream):
            counts[kernel.__name__] = len(kernel.signatures)
    assert counts["lstm_sequence_backward"] == counts["gru_stream_forward"] == 2
    # What stands in for functions that users compile is compiled for each kind of stream that comes.
    often = {name: count for name, count in counts.items() if count > 2 and not name.endswith("_from_python")}
    assert not often


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_uninitialised_memory__comes_from_one_place(path):
    """Only what comes from there is filled with NaN and fenced by the tests."""
    uses = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("empty", "empty_like") and node.value.id == "np"
    ]
    assert path.name in ("_memory.py", "reference.py") or not uses


def test_tracked_files__name_no_path_of_one_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"(^|[^\w.])/(work|farm|root|home)/[\w.-]+")
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".json", ".yml", "") and path.is_file():
            assert not pattern.search(path.read_text(encoding="utf-8")), name


def test_python_versions__are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    classifiers = " ".join(project["classifiers"])
    versions = re.findall(r"Python :: (3\.\d+)", classifiers)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"\nCPython {versions[0]} to {versions[-1]}. Tested: " in readme
    assert f"CPython {versions[0]} or newer" in readme
    assert project["requires-python"] == f">={versions[0]}"
    environment = (ROOT / "scripts" / "_environment.py").read_text(encoding="utf-8")
    assert f"MINIMUM_PYTHON = ({versions[0].replace('.', ', ')})" in environment
    workflow = ROOT / ".github" / "workflows" / "tests.yml"
    if workflow.exists():  # not in a source distribution
        assert f"python: {json.dumps(versions)}" in workflow.read_text(encoding="utf-8")


def test_links__lead_to_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    homepage = project["urls"]["Homepage"]
    for name in ("pyproject.toml", "README.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"https://github\.com/[\w.-]+/rnnkernels", text)) <= {homepage}, name
        for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", text):
            assert (ROOT / target).exists(), f"{name}: {target}"
