"""Benchmarks of rnnkernels, in the modules of the package; asv and scripts/check_regressions.py run them."""

import os

# The BLAS under the plain-NumPy yardstick reads these when it is loaded. More threads would be more of the machine than
# the kernels get, and on products as small as those of one step they lose time.
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[variable] = "1"
