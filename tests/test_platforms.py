"""What other systems lack is not needed: a process that is made to lack it does the same."""

import subprocess
import sys
from pathlib import Path

import torch

SAMPLE = Path(__file__).parents[1] / "sample_models" / "burgers.pt"
LIKE_WINDOWS = """
import multiprocessing.context, os, sys, tempfile, types
import click, numba, numpy, psutil, pydantic, rich.console, rich.progress, scipy.fft, threadpoolctl, torch, yaml

sys.platform = "win32"
sys.modules["fcntl"] = sys.modules["resource"] = None
del multiprocessing.context.ForkProcess, os.O_TMPFILE, os.sched_getaffinity
tempfile.TemporaryFile = tempfile.NamedTemporaryFile
process, opened = psutil.Process, os.open
memory = types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(peak_wset=process().memory_info().rss))
psutil.Process = lambda: memory
for name in dir(threadpoolctl.ThreadpoolController):
    if name.startswith("_find_libraries_"):
        setattr(threadpoolctl.ThreadpoolController, name, lambda self: None)

def open_no_folder(path, *args, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return opened(path, *args, **options)

os.open = open_no_folder

from hmcompress.cli import run
"""


def test_all_commands_run_on_a_system_like_windows(tmp_path):
    """Without fork, fcntl, resource, nameless files, and folders that can be opened."""
    file, restored = tmp_path / "burgers.hmc.safetensors", tmp_path / "restored.pt"
    commands = [
        ["compress", str(SAMPLE), "-o", str(file), "--tol", "1e-3", "--jobs", "2", "--quiet"],
        ["report", str(file)],
        ["verify", str(file), "--against", str(SAMPLE)],
        ["decompress", str(file), "-o", str(restored)],
    ]
    code = LIKE_WINDOWS + f"sys.exit(max(map(run, {commands!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.load(restored).keys() == torch.load(SAMPLE).keys()
    assert not list(tmp_path.glob(".*"))
