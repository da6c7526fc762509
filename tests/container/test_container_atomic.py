"""A file appears whole or not at all."""

import contextlib
import errno
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import pytest
import torch
from container_files import mixed, pinn, read, write

from hmcompress.commands import restoring
from hmcompress.container import atomic, atomic_write, check_output
from hmcompress.container import writer as writer_module
from hmcompress.errors import OutputError
from hmcompress.report.files import write_page

SCRIPT = """
import sys, torch
from pathlib import Path
from container_files import pinn, write
print("ready", flush=True)
while True:
    write(Path(sys.argv[1]), pinn(), force=True)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_existing_file_needs_force(tmp_path):
    (tmp_path / "f").write_text("old")
    with pytest.raises(OutputError, match="exists already"):
        write(tmp_path / "f", pinn())
    assert (tmp_path / "f").read_text() == "old"
    write(tmp_path / "f", pinn(), force=True)
    assert len(read(tmp_path / "f")) == 10


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_who_may_read_a_file_stays_the_same_where_it_is_replaced(tmp_path):
    write(tmp_path / "f", pinn())
    (tmp_path / "f").chmod(0o600)
    write(tmp_path / "f", pinn(), force=True)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("where", ["missing/f", "."])
def test_impossible_places_are_said_at_once(tmp_path, where):
    with pytest.raises(OutputError):
        write(tmp_path / where, {})


def test_devices_pipes_and_links_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="device or a pipe"):
        write(tmp_path / "pipe", {}, force=True)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(OutputError, match="exists already"):
        write(tmp_path / "link", {})
    write(tmp_path / "link", {}, force=True)
    assert (tmp_path / "link").is_symlink() and read(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, RuntimeError, MemoryError])
@pytest.mark.parametrize("old", [None, "old"])
def test_stopping_midway_leaves_what_was_there(tmp_path, stop, old):
    if old:
        (tmp_path / "f").write_text(old)
    with pytest.raises(stop), atomic_write(tmp_path / "f", force=True) as file:
        file.write(b"partial")
        raise stop
    assert names(tmp_path) == (["f"] if old else [])
    assert not old or (tmp_path / "f").read_text() == old


def test_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(OutputError, match="appeared"), atomic_write(tmp_path / "f") as file:
        file.write(b"mine")
        (tmp_path / "f").write_text("theirs")
    assert names(tmp_path) == ["f"] and (tmp_path / "f").read_text() == "theirs"


def test_two_that_write_one_name_at_once_do_not_both_succeed(tmp_path, monkeypatch):
    """The name is claimed in one step: a file that comes after the last look at it is not replaced either."""
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with pytest.raises(OutputError, match="appeared"), atomic_write(tmp_path / "f") as file:
        file.write(b"mine")
        (tmp_path / "f").write_text("theirs")
    assert names(tmp_path) == ["f"] and (tmp_path / "f").read_text() == "theirs"


def test_works_where_files_cannot_be_nameless(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EPERM, "no")))
    monkeypatch.setattr(atomic, "_unnamed", lambda folder: tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
    write(tmp_path / "f", pinn())
    assert names(tmp_path) == ["f"] and len(read(tmp_path / "f")) == 10


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u4e2d", "\U0001f600"])
def test_a_name_as_long_as_the_system_allows_is_written(tmp_path, letter):
    longest = letter * (255 // len(letter.encode()))
    with atomic_write(tmp_path / longest) as file:
        file.write(b"whole")
    write_page(tmp_path / ("y" + longest[1:]), "<!doctype html>")
    assert (tmp_path / longest).read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 2


def test_file_has_ordinary_permissions(tmp_path):
    write(tmp_path / "f", {})
    (tmp_path / "plain").touch()
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("fails", ["write", "fsync"])
def test_full_disk_leaves_nothing(tmp_path, monkeypatch, fails):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "f").write_text("old")
    if fails == "write":
        monkeypatch.setattr(writer_module.FileWriter, "_assemble", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path / "f", mixed(), force=True)
    assert names(tmp_path) == ["f"] and (tmp_path / "f").read_text() == "old"


def test_full_disk_is_an_output_error_while_torch_saves(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    @contextlib.contextmanager
    def full(path, force):
        with atomic.writing(path):
            yield Full()

    write(tmp_path / "f", mixed())
    monkeypatch.setattr(restoring, "atomic_write", full)
    with pytest.raises(OutputError, match="No space left"):
        restoring.decompress(tmp_path / "f", tmp_path / "out.pt")


def test_size_limit_of_the_system_leaves_nothing(tmp_path):
    """RLIMIT_FSIZE stands in for a full disk: writes beyond it fail, in the spool or when the file is put together."""
    code = """
import resource, signal, sys, torch
from pathlib import Path
from container_files import write
from hmcompress.container import writer
from hmcompress.errors import OutputError
writer._IN_MEMORY = 1000
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tensors = {f"w{i}": torch.randn(100, 60) for i in range(8)}
size = write(None, tensors)
for limit in (size - 20_000, size - 10_000, size - 100):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write(Path(sys.argv[1]), tensors)
    except OutputError as error:
        print(error)
"""
    assert run(code, tmp_path / "f").count("cannot be written") == 3 and names(tmp_path) == []


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_a_random_moment_leaves_a_whole_file(tmp_path, seed, kind):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, tmp_path / "f"], env=environment(), stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    time.sleep(random.Random(seed).uniform(0.02, 0.4))
    process.send_signal(kind)
    process.wait()
    process.stdout.close()
    assert names(tmp_path) in ([], ["f"])
    if names(tmp_path):
        assert len(read(tmp_path / "f")) == 10


def run(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment():
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(os.path.dirname(here))
    return os.environ | {"PYTHONPATH": os.pathsep.join([here, root]), "OMP_NUM_THREADS": "1"}


def test_torch_can_save_into_it(tmp_path):
    with atomic_write(tmp_path / "f.pt") as file:
        torch.save({"a": torch.ones(3)}, file)
    assert torch.load(tmp_path / "f.pt")["a"].tolist() == [1, 1, 1]


def test_standard_output_and_empty_names_are_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"nothing is written to standard output, name a file$"):
        check_output("-", force=True)
    with pytest.raises(OutputError, match=r"^'' is a folder: name a file$"):
        check_output("", force=True)
    assert check_output("./-", force=False)  # a file of that name can be had
