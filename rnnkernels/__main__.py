"""The package from the command line: ``python -m rnnkernels [--json]``, ``... compile``, ``... profile SCRIPT.py``."""

import argparse
import json
import platform
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import rnnkernels
from rnnkernels import profiling
from rnnkernels._program import program_table
from rnnkernels.kernels import inventory, simd
from rnnkernels.kernels.cell import cells


def describe() -> dict[str, Any]:
    """Versions, processor, threads, and machine code."""
    folder = inventory.code_folder()
    files = sorted(Path(folder).glob("*.nbc")) if folder else []
    return {
        "rnnkernels": rnnkernels.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        **inventory.compilers(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "vector_bytes": simd.VECTOR_BYTES,
        "threads": rnnkernels.get_num_threads(),
        "code_folder": folder,
        "code_files": len(files),
        "code_bytes": sum(file.stat().st_size for file in files),
        "compiled": sorted({file.name.partition("-")[0].rpartition(".")[2] for file in files}),
        "cells": sorted(cells),
    }


def _show(as_json: bool) -> int:
    facts = describe()
    if as_json:
        print(json.dumps(facts))
        return 0
    for name, value in facts.items():
        if isinstance(value, list):
            value = ", ".join(value) or "nothing"
        elif value is None:
            value = "nowhere: each process compiles anew; see NUMBA_CACHE_DIR"
        print(f"{name.replace('_', ' '):<14}{value}")
    return 0


def _compile(options: argparse.Namespace) -> int:
    began = time.perf_counter()

    def progress(done: int, total: int, what: str) -> None:
        if what and not options.json:
            print(f"{time.perf_counter() - began:6.1f} s  {done + 1:>2} of {total}  {what}", flush=True)

    rnnkernels.compile_all(options.cell, options.dtype, progress)
    code = inventory.count_machine_code()
    facts = {
        "seconds": round(time.perf_counter() - began, 3),
        "compiled": code.compiled,
        "loaded": code.loaded,
        "code_folder": inventory.code_folder(),
    }
    if options.json:
        print(json.dumps(facts))
    else:
        place = f"kept in {facts['code_folder']}" if facts["code_folder"] else "kept nowhere"
        print(f"{facts['seconds']:6.1f} s  {code.compiled} compiled, {code.loaded} loaded, {place}")
    return 0


def _profile(options: argparse.Namespace) -> int:
    """Run a script as `python SCRIPT.py` would, and show what it asked of the package, whatever its end."""
    script = Path(options.script)
    if not script.is_file():
        print(f"There is no file {script}.", file=sys.stderr)
        return 2
    arguments, path = sys.argv, list(sys.path)
    sys.argv, sys.path[0] = [options.script, *options.arguments], str(script.resolve().parent)
    status: Any = 0
    profile = profiling.profile()
    began = time.perf_counter()
    try:
        with profile:
            runpy.run_path(options.script, run_name="__main__")
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt:
        status = 130
    finally:
        seconds = time.perf_counter() - began
        sys.argv, sys.path[:] = arguments, path
        print(program_table(profile.calls, seconds), file=sys.stderr)
        if options.json:
            Path(options.json).write_text(json.dumps(profile.to_dict() | {"seconds": seconds}), encoding="utf-8")
    if status is None or isinstance(status, int):
        return status or 0
    print(status, file=sys.stderr)
    return 1


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand."""
    parser = argparse.ArgumentParser(
        prog="python -m rnnkernels",
        description="Without a command: versions, processor, threads, and which machine code is kept where.",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    commands = parser.add_subparsers(dest="command", title="commands")
    ahead = commands.add_parser("compile", help="compile everything ahead of time, for images and read-only folders")
    ahead.add_argument("--cell", action="append", choices=sorted(cells), help="only this cell; may be repeated")
    ahead.add_argument("--dtype", action="append", choices=["float32", "float64"], help="only this dtype; likewise")
    ahead.add_argument("--json", action="store_true", help="print one line of JSON")
    run = commands.add_parser("profile", help="run a script and show what its calls of rnnkernels cost")
    run.add_argument("--json", metavar="FILE", help="write all that was recorded to a file too")
    run.add_argument("script", metavar="SCRIPT.py")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS", help="of the script")
    options = parser.parse_args(arguments)
    if options.command == "compile":
        return _compile(options)
    return _profile(options) if options.command == "profile" else _show(options.json)


if __name__ == "__main__":
    sys.exit(main())
