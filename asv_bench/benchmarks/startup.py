"""What a new process waits for: the import, and the first call without and with machine code on the disk."""

IMPORT = "import numpy as np; import rnnkernels"

FIRST_CALL = """\
h, cache = rnnkernels.lstm_forward(x, np.zeros((2, 4), "f"), np.ones((5, 16), "f"), np.ones((4, 16), "f"), bias)
rnnkernels.lstm_backward(h, cache)
"""

ARGUMENTS = 'x, bias = np.ones((2, 3, 5), "f"), np.zeros(16, "f")'

EMPTY_DISK_CACHE = """\
import os, tempfile
folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
os.environ["NUMBA_CACHE_DIR"] = folder.name
"""


class Startup:
    rounds = 1
    number = 1
    timeout = 600

    def timeraw_import(self):
        return IMPORT

    timeraw_import.repeat = 5

    def timeraw_first_call_with_disk_cache(self):
        return FIRST_CALL, f"{IMPORT}\n{ARGUMENTS}"

    # The first process is for warming up: it writes the cache.
    timeraw_first_call_with_disk_cache.repeat = 5
    timeraw_first_call_with_disk_cache.warmup_time = 0.1

    def timeraw_first_call_without_disk_cache(self):
        return FIRST_CALL, f"{EMPTY_DISK_CACHE}\n{IMPORT}\n{ARGUMENTS}"

    timeraw_first_call_without_disk_cache.repeat = 2
    timeraw_first_call_without_disk_cache.warmup_time = 0
