"""Set-up shared by `demo` and `test`: a virtual environment with the project and one of its extras installed in it.

Every Python since 3.6 can read this file and its two users, so that an old one says what is missing in a sentence.
"""

import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
from typing import List, Tuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MINIMUM_PYTHON = (3, 11)


def say(message: str) -> None:
    """Print at once, also into a pipe."""
    print(message, flush=True)


def require_python() -> None:
    """End with a sentence unless this is CPython, new enough, with what makes virtual environments."""
    implementation = platform.python_implementation()
    if implementation != "CPython" or sys.version_info < MINIMUM_PYTHON:
        name = os.path.basename(sys.argv[0])
        minimum = ".".join(map(str, MINIMUM_PYTHON))
        sys.exit(
            f"rnnkernels needs CPython {minimum} or newer; this is {implementation} {platform.python_version()}"
            f" ({sys.executable}).\nRun this script with a newer one, for example: python3.12 scripts/{name}"
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        sys.exit(
            f"This Python ({sys.executable}) cannot make virtual environments: its module `{error.name}` is missing.\n"
            "Debian and Ubuntu keep it in a package of its own: apt install python3-venv"
        )


def location() -> str:
    """Return the virtual environment's folder: RNNKERNELS_VENV, or .venv in the project."""
    return os.path.abspath(os.environ.get("RNNKERNELS_VENV") or os.path.join(ROOT, ".venv"))


def environment_python(folder: str) -> str:
    """Return the path of the environment's interpreter."""
    return os.path.join(folder, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))


def read(path: str) -> str:
    """Return a file's text, or an empty one if there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def write(path: str, text: str) -> None:
    """Write a text file."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def make_environment(folder: str) -> None:
    """Make the virtual environment, anew if it was made by another Python."""
    stamp = os.path.join(folder, "rnnkernels-python.stamp")
    made_by = sys.version + "\n" + sys.base_prefix
    if read(stamp) == made_by and os.path.exists(environment_python(folder)):
        return
    if os.path.isdir(folder) and os.listdir(folder) and not os.path.exists(os.path.join(folder, "pyvenv.cfg")):
        sys.exit(f"{folder} holds something else than a virtual environment; it is left as it is.")
    if os.path.realpath(sys.prefix) == os.path.realpath(folder):
        sys.exit(f"This Python lives in {folder}, which has to be made anew: run the script with the Python outside.")
    say(f"Making the virtual environment {folder}")
    if subprocess.call([sys.executable, "-m", "venv", "--clear", folder]):
        shutil.rmtree(folder, ignore_errors=True)
        sys.exit("The virtual environment could not be made; Python's own words are above.")
    write(stamp, made_by)


def pip_install(python: str, requirement: str) -> Tuple[int, str]:
    """Run pip in the project's folder; return its exit status and what it wrote to standard error."""
    process = subprocess.Popen(
        [python, "-m", "pip", "install", "--disable-pip-version-check", "--editable", requirement],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        universal_newlines=True,
        errors="replace",
    )
    lines = []
    for line in process.stderr or ():
        sys.stderr.write(line)
        sys.stderr.flush()
        lines.append(line)
    return process.wait(), "".join(lines)


def prepare(extra: str) -> str:
    """Make sure that the environment has the project (editable) with the extra; return its interpreter."""
    require_python()
    folder = location()
    make_environment(folder)
    python = environment_python(folder)

    stamp = os.path.join(folder, f"rnnkernels-{extra}.stamp")
    project = read(os.path.join(ROOT, "pyproject.toml")) + ROOT
    wanted = hashlib.sha256(project.encode("utf-8")).hexdigest()
    if read(stamp) == wanted:
        return python

    say(f"Installing rnnkernels[{extra}] and what it needs into {folder}")
    status, complaints = pip_install(python, f".[{extra}]")
    if status:
        # pip's words for "no network" are retries, then a claim that the package has no versions at all.
        if "connection" in complaints.lower():
            sys.exit(
                "\npip cannot reach its package registry. The first run needs the network;"
                " behind a proxy or a mirror, pip's own configuration (`pip config`) must name it."
            )
        sys.exit("\npip could not install what rnnkernels needs; its own words are above.")
    write(stamp, wanted)
    return python


def run(command: List[str]) -> int:
    """Run a command, leave Ctrl-C to it, and return its exit status as a shell would."""
    process = subprocess.Popen(command)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGINT, interrupt)
    return status if status >= 0 else 128 - status
