"""Random programs for the pickle machine: valid opcodes in senseless order, calls of every known constructor."""

import os
import pickle
import random
import struct
import zipfile

from checkpoint_files import tensors_of

from hmcompress.checkpoint import open_checkpoint
from hmcompress.checkpoint.known_globals import _TABLE, STORAGE_DTYPES
from hmcompress.checkpoint.machine import _HANDLERS
from hmcompress.errors import SourceError

COUNT = int(os.environ.get("HMC_PROGRAMS", "600"))
NAMES = sorted({*_TABLE, *(f"torch.{name}" for name in STORAGE_DTYPES), "torch.float32", "posix.system", "a.B"})
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00K\x02\x85K\x01\x85\x89}tR"
LITERALS = [
    b"N", b"\x88", b"K\x00", b"K\x01", b"K\x04", b"J\xff\xff\xff\xff", b"\x8a\x0a" + b"\xff" * 9 + b"\x7f",
    b"G" + struct.pack(">d", 0.5), b"G" + struct.pack(">d", float("nan")), b"\x8c\x01a", b"\x8c\x00", b"\x8c\x02f4",
    b"\x8c\x02U1", b"\x8c\x0asparse_coo", b"\x8c\x06latin1", b"C\x04abcd", b"C\x00", b")", b"]", b"}", b"\x8f",
    b"h\x00", b"\x96\x02\x00\x00\x00\x00\x00\x00\x00ab", STORAGE, TENSOR,
]  # fmt: skip


def expression(rng, depth=0):
    """Opcodes that leave one object on the stack."""
    kind = rng.randrange(8 if depth < 5 else 2)
    if kind < 2:
        return rng.choice(LITERALS)
    parts = [expression(rng, depth + 1) for _ in range(rng.choice((1, 2, 2, 3, 4, 7)))]
    if kind == 2:
        return b"(" + b"".join(parts) + rng.choice((b"t", b"l", b"\x91"))
    if kind == 3:
        return b"}(" + b"".join(key_or_value for part in parts for key_or_value in (rng.choice(LITERALS), part)) + b"u"
    module, _, name = rng.choice(NAMES).rpartition(".")
    called = f"c{module}\n{name}\n(".encode() + b"".join(parts) + b"t" + rng.choice((b"R", b"R", b"\x81"))
    return called + rng.choice((b"", b"", b"", expression(rng, depth + 1) + b"b", b"(" + parts[0] + b"e", b"\x94"))


def program(rng):
    """A dict with a tensor and a few senseless objects, at times with an opcode out of place."""
    objects = [b"\x8c\x01" + letter + expression(rng) for letter in (b"x", b"y")]
    out = b"\x80\x04}\x94(\x8c\x01w" + TENSOR + b"".join(objects) + b"u."
    if rng.random() < 0.2:
        at = rng.randrange(2, len(out))
        out = out[:at] + bytes([rng.choice(list(b"".join(_HANDLERS)))]) + out[at:]
    return out


def test_random_programs_end_in_one_clear_error_or_do_no_harm(tmp_path):
    rng = random.Random(7)
    path = tmp_path / "model.pt"
    opened = 0
    for _ in range(COUNT):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/data.pkl", program(rng))
            archive.writestr("m/data/0", bytes(16))
        try:
            tensors_of(open_checkpoint(path))
            opened += 1
        except SourceError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 700
    assert opened > COUNT // 50


def test_every_opcode_is_known_or_refused():
    """All opcodes of Python's pickle but extensions and out-of-band buffers, which nothing we read uses."""
    codes = {name: value for name, value in vars(pickle).items() if name.isupper() and isinstance(value, bytes)}
    known = {value for value in codes.values() if len(value) == 1}
    left_out = {pickle.STOP, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER}
    assert known - set(_HANDLERS) <= left_out
