"""One thread for linear algebra in each test process: tests run side by side, and their matrices are small."""

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # read once, when the libraries load; subprocesses inherit it
