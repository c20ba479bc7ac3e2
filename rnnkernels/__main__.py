"""The package from the command line: ``python -m rnnkernels [--json]``, ``... compile``, ``... profile SCRIPT.py``."""

import argparse
import json
import platform
import runpy
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import rnnkernels
from rnnkernels import profiling
from rnnkernels._compile import compile_group
from rnnkernels._program import program_table
from rnnkernels._threads import available_threads
from rnnkernels.kernels import inventory, simd
from rnnkernels.kernels.cell import cells

MOST_JOBS = 256


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
    """Compile in several processes, each of which takes a cell and a dtype at a time."""
    began = time.perf_counter()
    dtypes = options.dtype or ["float32", "float64"]
    groups = [(cell, dtype) for cell in [*(options.cell or cells), ""] for dtype in dtypes]
    compiled = loaded = 0
    with ProcessPoolExecutor(min(options.jobs, len(groups)), get_context("spawn")) as processes:
        futures = {processes.submit(compile_group, *group): group for group in groups}
        for done, future in enumerate(as_completed(futures), 1):
            counts = future.result()
            compiled, loaded = compiled + counts[0], loaded + counts[1]
            if not options.json:
                cell, dtype = futures[future]
                what = f"{cell or 'other layers'}, {dtype}"
                print(f"{time.perf_counter() - began:6.1f} s  {done:>2} of {len(groups)}  {what}", flush=True)
    facts = {
        "seconds": round(time.perf_counter() - began, 3),
        "compiled": compiled,
        "loaded": loaded,
        "code_folder": inventory.code_folder(),
    }
    if options.json:
        print(json.dumps(facts))
    else:
        place = f"kept in {facts['code_folder']}" if facts["code_folder"] else "kept nowhere"
        print(f"{facts['seconds']:6.1f} s  {compiled} compiled, {loaded} loaded, {place}")
    return 0


def _profile(options: argparse.Namespace) -> int:
    """Run a script as `python SCRIPT.py` would, and show what it asked of the package, whatever its end."""
    script, record = Path(options.script), Path(options.record).absolute() if options.record else None
    if not script.is_file():
        print(f"There is no file {script}.", file=sys.stderr)
        return 2
    try:
        if record:
            record.open("a").close()
    except OSError as error:
        print(f"Cannot write {record}: {error.strerror}", file=sys.stderr)
        return 2
    arguments, path = sys.argv, list(sys.path)
    sys.argv, sys.path[0] = [options.script, *options.arguments], str(script.resolve().parent)
    status: Any = 0
    profile = profiling.profile()
    began = time.perf_counter()
    try:
        with profile:
            began = time.perf_counter()  # not before: to begin a profile loads machine code
            runpy.run_path(options.script, run_name="__main__")
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt:
        status = 130
    finally:
        seconds = time.perf_counter() - began
        sys.argv, sys.path[:] = arguments, path
        print(program_table(profile.calls, seconds), file=sys.stderr)
        if record:
            record.write_text(json.dumps(profile.to_dict() | {"seconds": seconds}), encoding="utf-8")
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
    ahead.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        default=min(available_threads(), MOST_JOBS),
        help="processes side by side (default: %(default)s)",
    )
    ahead.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one line of JSON")
    run = commands.add_parser("profile", help="run a script and show what its calls of rnnkernels cost")
    run.add_argument("--json", dest="record", metavar="FILE", help="write all that was recorded to a file too")
    run.add_argument("script", metavar="SCRIPT.py")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS", help="of the script")
    options = parser.parse_args(arguments)
    if options.command == "compile":
        if not 1 <= options.jobs <= MOST_JOBS:
            ahead.error(f"argument --jobs: must be in 1 .. {MOST_JOBS}, got {options.jobs}")
        return _compile(options)
    if options.command == "profile":
        if options.json:
            run.error("argument --json: comes after `profile`, with the name of a file")
        return _profile(options)
    return _show(options.json)


if __name__ == "__main__":
    sys.exit(main())
