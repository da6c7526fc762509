"""Tests side by side: one thread for linear algebra in each process, as matrices are small, and files as a whole."""

import os
from typing import Any

import pytest

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # read once, when the libraries load; subprocesses inherit it


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, the tests of a file in one process, so that what they share is made once.

    Not by `--dist` in pyproject.toml: pytest-benchmark takes that for tests side by side, and measures nothing.
    """
    from xdist.scheduler import LoadFileScheduling  # an extra

    return LoadFileScheduling(config, log) if config.getoption("dist") == "load" else None
