"""What a call runs: the machine code of its kernels and the Python files of its path, each as a digest.

Two commits that run the same code for a benchmark need not be timed: neither is slower. That is claimed of nothing that
has not been looked at; so a call is made in a process forked for it, in which no kernel has been loaded before, and
everything counts that it loads there:

machine code        of every kernel and shared routine. Their files on disk hold, beside the object code, the LLVM code
                    that it was made of, after all optimisation. Numba numbers the functions that a process compiles;
                    these numbers become those of first occurrence, names of functions lose their modules, so that a
                    function can move, and what remains is compared byte by byte. A process that compiles instead of
                    loading proves nothing.
Python files        of the package: those with a function that has run, and what they import, each without comments
                    and docstrings. In the folder `kernels` most functions are machine code; there, functions count
                    only if Python has run them, besides all that is no function; so do imports, but for those of
                    machine code alone. A file of that folder is not looked for under its name, but by what it says.

The interpreter, NumPy and Numba are those of this process; both commits have the same.
"""

from __future__ import annotations

import ast
import hashlib
import os
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

KERNELS = "kernels"
"""Folder of what is compiled."""

RUNTIME = "nrt"
"""The one library that Numba compiles in each process."""

Fingerprint = dict[str, str]
"""Digests by the name of a kernel or a file."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def digest(text: str) -> str:
    """Short name of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


LABEL = re.compile(r"(\"[^\"]*\"|[-\w$.]+):")
NAME = re.compile(r"%(\"[^\"]*\"|[-\w$.]+)")
TAG = re.compile(r"(\w+?)B\d+v(\d+)")
"""Name of a function in a mangled name, and its number, which another one can have in another library."""

MODULE = re.compile(rf"{len(KERNELS)}{KERNELS}(\d+)")
"""In a mangled name, with the length of that of the module, which follows."""

SCOPE = re.compile(r"!\"_ZN[^\"]*\"")
"""Name of a scope of aliases: what matters is which is which, and they have numbers."""

TYPE = re.compile(r"^%(\S+) = type", re.MULTILINE)

IGNORED = ";", '@".const.missing Environment', "@_ZN08NumbaEnv"
"""Beginnings of lines that say nothing: comments, a text whose length depends on a number, and declarations of pointers
to environments, in an order that depends on what else was compiled."""


def _without_modules(line: str) -> str:
    """The names of kernels without those of their modules."""
    parts, end = [], 0
    for found in MODULE.finditer(line):
        parts.append(line[end : found.start()])
        end = found.end() + int(found[1])
    return "".join(parts) + line[end:]


def canonical_code(code: str) -> str:
    """LLVM code in which blocks, values and functions of one name have the number of their first occurrence.

    Numba's own numbers for them depend on what else the process has compiled. Comments are left out.
    """
    types = {name: f"type {name}" for name in TYPE.findall(code)}
    numbers: dict[str, dict[str, int]] = {}
    values: dict[str, str] = {}
    lines = []

    def with_number(tag: re.Match[str]) -> str:
        known = numbers.setdefault(tag[1], {})
        return f"{tag[1]}Bv{known.setdefault(tag[2], len(known))}"

    for line in code.splitlines():
        if line.startswith(IGNORED):
            continue
        line = SCOPE.sub("", line) if line.startswith("!") else line
        line = _without_modules(line) if KERNELS in line else line
        line = TAG.sub(with_number, line)
        if line.startswith("define "):
            values.clear()
            values.update(types)
        if line.startswith(("define ", "  ")) or LABEL.match(line):
            line = f"%{line}" if LABEL.match(line) else line
            line = NAME.sub(lambda name: "%" + values.setdefault(name[1], str(len(values))), line.partition(" ; ")[0])
        lines.append(line.rstrip())
    return "\n".join(lines)


def canonical_source(source: str | bytes) -> str:
    """Python code without comments and docstrings."""
    return ast.dump(_without_docstrings(ast.parse(source)))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


class _Outer(ast.NodeTransformer):
    """Leaves functions out."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Leave it out."""

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Leave it out."""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        """Keep a class as it is: none is compiled."""
        return node


def _outer(statements: list[ast.stmt]) -> str:
    copy = ast.parse("")
    copy.body = [kept for statement in statements if (kept := _Outer().visit(statement)) is not None]
    return ast.dump(copy)


class Source:
    """A Python file of a package."""

    def __init__(self, name: str, content: bytes) -> None:
        tree = _without_docstrings(ast.parse(content))
        self.modules = list(_imported_modules(name, tree))
        self._whole = digest(ast.dump(tree))
        self._is_compiled = Path(name).parent.name == KERNELS
        if self._is_compiled:
            functions = [(node, _lines(node)) for node in ast.walk(tree) if isinstance(node, Function)]
            self._functions = [(lines, f"{_head(node)} {_outer(node.body)}") for node, lines in functions]
            imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            self._others = _outer([statement for statement in tree.body if statement not in imports])
            self._imports = [_one_import(node, alias) for node in imports for alias in node.names]
            self._all_functions = "\n".join(text for _, text in self._functions)

    def part(self, lines: set[int]) -> str:
        """Digest of what Python has run, if it has run functions that begin at these lines."""
        if not self._is_compiled:
            return self._whole
        counted = "\n".join([self._others, *(text for begin, text in self._functions if lines & begin)])
        imports = [
            text for name, text in self._imports if name in counted or name not in self._all_functions
        ]  # the others are for machine code alone
        return digest("\n".join([*imports, counted]))


def _one_import(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> tuple[str, str]:
    """How the imported name is written where it is used, and what it is."""
    name = (alias.asname or alias.name).partition(".")[0]
    module = f"{'.' * node.level}{node.module or ''}" if isinstance(node, ast.ImportFrom) else ""
    return f"id={name!r}", f"{module} {alias.name} {alias.asname}"


def _imported_modules(name: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = Path(name).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))


class Sources:
    """The Python files of a package, by path below its parent."""

    def __init__(self, package: Path) -> None:
        self._root = package.parent
        paths = sorted(package.rglob("*.py"))
        names = [path.relative_to(self._root).as_posix() for path in paths]
        self._files = {name: Source(name, path.read_bytes()) for name, path in zip(names, paths, strict=True)}

    def name(self, path: str) -> str:
        """Path of a source file as used here; empty if it is none of the package."""
        try:
            name = Path(path).relative_to(self._root).as_posix()
        except ValueError:
            return ""
        return name if name in self._files else ""

    def fingerprint(self, ran: set[tuple[str, int]], ran_at_import: set[tuple[str, int]]) -> Fingerprint:
        """Digests of the path of a call, given the first lines of the functions that ran.

        Of packages, `__init__.py` is not followed, which imports everything for others to use.
        """
        lines: dict[str, set[int]] = {}
        for name, line in ran | ran_at_import:
            lines.setdefault(name, set()).add(line)
        path: set[str] = set()
        waiting = {name for name, _ in ran}
        while waiting:
            path |= waiting
            imported = {f"{module.replace('.', '/')}.py" for name in waiting for module in self._files[name].modules}
            waiting = (imported & self._files.keys()) - path
        return {name: self._files[name].part(lines.get(name, set())) for name in path}


def _lines(node: Function) -> set[int]:
    """Lines that the code of a function, or of an expression inside of it, can begin at."""
    inner = {line for child in node.body for line in range(child.lineno, (child.end_lineno or child.lineno) + 1)}
    nested = {
        line
        for child in ast.walk(node)
        if isinstance(child, Function) and child is not node
        for line in range(min([child.lineno, *(d.lineno for d in child.decorator_list)]), (child.end_lineno or 0) + 1)
    }
    return {min([node.lineno, *(d.lineno for d in node.decorator_list)])} | inner - nested


def _head(node: Function) -> str:
    return " ".join([node.name, ast.dump(node.args), *map(ast.dump, node.decorator_list)])


class Recorder:
    """Records what a process loads and runs; made before the package is imported, and without threads at work."""

    def __init__(self, package: Path) -> None:
        self._sources = Sources(package)
        self._ran: set[tuple[str, int]] = set()
        self._at_import: set[tuple[str, int]] = set()
        self._loaded: list[tuple[str, bytes]] = []
        self._compiled: list[str] = []
        self._digests: dict[bytes, str] = {}
        self._names: dict[str, str] = {}
        self._kernels: dict[int, Any] = {}
        self._listen()

    def _listen(self) -> None:
        import numba  # not above: what only compares fingerprints does without
        from numba.core import codegen, dispatcher, event

        numba.njit("f8(f8[::1])")(lambda a: a[0])  # what the compiler does once, it need not do in each child
        library: Any = codegen.JITCodeLibrary
        load, finalize = library._unserialize.__func__, library.finalize

        def _unserialize(cls: Any, owner: Any, state: Any) -> Any:
            name, kind, data = state
            if kind == "object":
                self._loaded.append((name, data[1]))
            else:
                self._compiled.append(name)
            return load(cls, owner, state)

        def finalize_and_tell(compiled: Any) -> None:
            self._compiled.append(compiled.name)
            finalize(compiled)

        kernel: Any = dispatcher.Dispatcher
        make = kernel.__init__

        def make_and_note(made: Any, py_func: Any, *arguments: Any, **options: Any) -> None:
            self._kernels[id(py_func.__code__)] = py_func.__code__
            make(made, py_func, *arguments, **options)

        class Compilation(event.Listener):
            def on_start(_, event: Any) -> None:
                self._profile(None)  # such a process proves nothing, and the compiler would take twice as long

            def on_end(_, event: Any) -> None:
                pass

        library._unserialize, library.finalize = classmethod(_unserialize), finalize_and_tell
        kernel.__init__ = make_and_note
        event.register("numba:compile", Compilation())
        self._profile(self._see)

    def _profile(self, see: Any) -> None:
        sys.setprofile(see)
        threading.setprofile(see)

    def _see(self, frame: Any, event: str, _: Any) -> None:
        if event == "call":
            code = frame.f_code
            if id(code) in self._kernels:  # for profilers, Numba acts as if Python ran them
                return
            name = self._names.get(code.co_filename)
            if name is None:
                name = self._names[code.co_filename] = self._sources.name(code.co_filename)
            if name and code.co_name != "<module>":
                self._ran.add((name, code.co_firstlineno))

    def imported(self) -> None:
        """Say that the package has been imported."""
        self._profile(None)
        self._at_import, self._ran = self._ran, set()

    def fingerprint(self, call: Callable[[], None]) -> Fingerprint | None:
        """What a call runs; None if that cannot be told.

        The first call may compile, and leaves its machine code on the disk for the next one.
        """
        if not hasattr(os, "fork"):
            return None
        for _ in range(2):
            seen = in_child(lambda: self._trace(call))
            if seen is None:
                return None
            found, digests, is_compiled = seen
            self._digests |= digests
            if not is_compiled:
                return found
        return None

    def _trace(self, call: Callable[[], None]) -> tuple[Fingerprint, dict[bytes, str], bool]:
        import llvmlite.binding as llvm

        self._profile(self._see)
        try:
            call()
        finally:
            self._profile(None)
        kernels: dict[str, set[str]] = {}
        for name, bitcode in self._loaded:
            key = hashlib.sha256(bitcode).digest()
            if key not in self._digests:
                self._digests[key] = digest(canonical_code(str(llvm.parse_bitcode(bitcode))))
            kernels.setdefault(name, set()).add(self._digests[key])
        found = self._sources.fingerprint(self._ran, self._at_import)
        found |= {name: " ".join(sorted(digests)) for name, digests in kernels.items()}
        return found, self._digests, any(name != RUNTIME for name in self._compiled)


def in_child(task: Callable[[], Any]) -> Any:
    """Result of a task in a forked process; None if it fails."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        answer: Any = None
        try:
            answer = task()
        finally:
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(answer, pipe)
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(content) if content else None


def difference(base: Fingerprint, head: Fingerprint) -> list[str]:
    """Kernels and files that are not the same in both."""
    different = sorted(name for name in base.keys() | head.keys() if base.get(name) != head.get(name))
    both = set(base.values()) & set(head.values())
    return [
        name
        for name in different
        if not (name.endswith(".py") and Path(name).parent.name == KERNELS)
        or any(name in side and side[name] not in both for side in (base, head))
    ]
