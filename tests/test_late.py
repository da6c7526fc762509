"""Modules that are imported at first use."""

import gc
import os
import subprocess
import sys

import pytest

from hmcompress.late import load, load_for_good, spin_little


def test_a_module_is_imported_and_garbage_is_collected_again():
    assert load("hmcompress.errors").__name__ == "hmcompress.errors"
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError):
        load("hmcompress.nothing")
    assert gc.isenabled()


def test_a_program_that_collects_no_garbage_goes_on_so():
    gc.disable()
    try:
        load("hmcompress.errors")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_program_of_our_own_never_goes_through_what_loading_made():
    gc.unfreeze()
    try:
        load("hmcompress.errors")
        assert gc.get_freeze_count() == 0
        assert load_for_good("hmcompress.errors").__name__ == "hmcompress.errors"
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_torch_is_not_imported_for_a_wrong_option():
    code = "import sys, hmcompress.cli as c; c.run(['report', '--wrong']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "No such option" in done.stderr


def test_threads_of_a_command_wait_in_short_loops_unless_the_user_says_otherwise(monkeypatch):
    for before, after in ((None, "10000"), ("5", "5")):
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        if before:
            monkeypatch.setenv("GOMP_SPINCOUNT", before)
        spin_little()
        assert os.environ["GOMP_SPINCOUNT"] == after
    monkeypatch.delenv("GOMP_SPINCOUNT")


@pytest.mark.parametrize(("module", "said"), [("triton", "all"), ("anything", "all, and more")])
def test_what_counts_objects_at_the_end_does_not_see_it(module, said):
    """Bindings that find objects left when the interpreter ends list them on stderr, as if something had gone wrong."""
    code = (
        "import atexit, sys; from hmcompress.late import end; "
        f"sys.modules[{module!r}] = sys; atexit.register(print, ', and more', end=''); print('all', end=''); end(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, said, "")
