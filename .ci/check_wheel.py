"""Check that a wheel holds every file of the package, its metadata, and nothing else."""

import sys
import zipfile
from pathlib import Path

wheel = Path(sys.argv[1])
information = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
package = {path.as_posix() for path in Path("rnnkernels").rglob("*.py")} | {"rnnkernels/py.typed"}
expected = package | {f"{information}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")}
held = set(zipfile.ZipFile(wheel).namelist())

print("\n".join(sorted(held)))
if held != expected:
    sys.exit(f"{wheel.name}: missing {sorted(expected - held)}, not expected {sorted(held - expected)}")
print(f"{wheel.name} holds what it should: {len(held)} files, {wheel.stat().st_size:,} bytes.")
