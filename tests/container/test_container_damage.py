"""Whatever happens to the bytes of a file, it is said in one line, without taking memory for it."""

import math
import os
import random
import re
import tracemalloc
import zlib
from base64 import b64encode
from pathlib import Path

import pytest
import torch
import zstandard
from container_files import mixed, pinn, pool, read, rewrite_header, sign, with_index, with_pool, write

from hmcompress import read_report, verify
from hmcompress.container import CompressedFile
from hmcompress.container.header import DIGEST_AT, POOL, is_compressed, parse_header
from hmcompress.container.squeeze import DEFLATE, ZSTD
from hmcompress.errors import FormatError, SettingsError
from hmcompress.geometry import View
from hmcompress.report.html import render_report_html
from hmcompress.report.json import render_json
from hmcompress.report.table import report_view

MUTATIONS = 3000


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("damage")
    write(folder / "mixed", mixed(), {"tied": View.whole("encoder.weight", (48, 32))}, settings={"tol": 1e-2})
    write(folder / "pinn", {name: tensor for name, tensor in pinn().items() if "2" in name or "8" in name})
    return [(folder / name).read_bytes() for name in ("mixed", "pinn")]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One of the usual accidents: a bit, a byte, a run, a cut, a hole, a repetition, something appended."""
    out = bytearray(data)
    at = rng.randrange(len(out)) if rng.random() < 0.6 else rng.randrange(min(1500, len(out)))
    kind = rng.randrange(8)
    if kind == 0:
        out[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        out[at] = rng.randrange(256)
    elif kind == 2:
        out[at : at + 8] = rng.randbytes(8)
    elif kind == 3:
        del out[at:]
    elif kind == 4:
        del out[at : at + rng.randrange(1, 64)]
    elif kind == 5:
        out[at:at] = out[at : at + rng.randrange(1, 64)]
    elif kind == 6:
        out += rng.randbytes(rng.randrange(1, 64))
    else:
        other = rng.randrange(len(out))
        out[at : at + 16], out[other : other + 16] = out[other : other + 16], out[at : at + 16]
    return bytes(out)


def outcome(path: Path, data: bytes) -> dict[str, torch.Tensor] | str:
    """The tensors, or the one line of the FormatError; any other exception fails the test."""
    path.write_bytes(data)
    try:
        return read(path)
    except FormatError as error:
        message = str(error)
        assert message.startswith(str(path)) and "\n" not in message and len(message) < 400
        return message


def test_every_random_mutation_is_found(tmp_path, originals):
    rng = random.Random(0)
    for i in range(MUTATIONS):
        data = originals[i % 2]
        mutated = mutate(data, rng)
        assert mutated == data or isinstance(outcome(tmp_path / "f", mutated), str)


def test_every_mutation_behind_a_valid_digest_is_found_or_changes_untouched_numbers(tmp_path, originals):
    rng = random.Random(1)
    found = 0
    for i in range(MUTATIONS):
        mutated = mutate(originals[i % 2], rng)
        result = outcome(tmp_path / "f", sign(mutated) if len(mutated) > DIGEST_AT + 40 else mutated)
        found += isinstance(result, str)
    assert found > MUTATIONS / 2


def test_decoders_survive_payloads_that_no_encoder_wrote(tmp_path, originals):
    """Every checksum holds here, so the decoders themselves must notice, or give numbers of the right shape."""
    rng = random.Random(2)
    shapes = {name: tensor.shape for name, tensor in (mixed() | pinn()).items()}
    for i in range(MUTATIONS // 2):
        result = outcome(tmp_path / "f", mutate_payload(originals[i % 2], rng))
        assert isinstance(result, str) or all(tensor.shape == shapes.get(k, (48, 32)) for k, tensor in result.items())


def mutate_payload(data: bytes, rng: random.Random) -> bytes:
    """Change bytes of the layers, and make checksums and digest hold again."""
    old = pool(data)[1]
    new = (mutate(old, rng) + bytes(len(old)))[: len(old)]
    return with_index(data, lambda document: fix_checksums(document, new), new)


def fix_checksums(document: dict, payloads: bytes) -> None:
    sizes, sums, at = document["layers"]["bytes"], b"", 0
    for size in sizes if isinstance(sizes, list) else [sizes] * len(document["layers"]["tensors"]):
        sums += zlib.crc32(payloads[at : at + size]).to_bytes(4, "little")
        at += size
    document["layers"]["crc32"] = b64encode(sums).decode()


def test_every_truncation_of_the_header_is_found(tmp_path, originals):
    for length in [*range(0, 200), *range(200, len(originals[0]), 97)]:
        assert isinstance(outcome(tmp_path / "f", originals[0][:length]), str)
        assert isinstance(outcome(tmp_path / "f", sign(originals[0][: max(length, 120)])), str)


def test_every_number_of_the_index_is_checked(tmp_path, originals):
    """Each number in the index, in turn, is made impossible or simply wrong, behind a valid digest."""
    for data in originals:
        document = index_of(data)
        for where in numbers(document):
            for wrong in (-1, 1 << 61, 1 << 80, 0.5, 1e300, True, "7", None, [], [1, 2, 3], {}):
                result = outcome(tmp_path / "f", with_index(data, lambda d, at=where, value=wrong: put(d, at, value)))
                harmless = where[0] in ("settings", "source") or {*where} & {"tol", "error", "max_abs_error"}
                renamed = where[0] == "names" and wrong == "7"
                counted = {*where} & {"max_rank", "zero", "low_rank", "quantized", "hybrid"}
                assert isinstance(result, str) or harmless or counted or renamed or wrong in ([], None), (where, wrong)


def index_of(data: bytes) -> dict:
    kept: list[dict] = []
    with_index(data, lambda document: kept.append(document))
    return kept[0]


def numbers(node, where=()):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from numbers(value, (*where, key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from numbers(value, (*where, i))
    elif type(node) in (int, float):
        yield where


def put(node, where, value):
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = value


@pytest.mark.parametrize(
    "shape", [[1 << 61], [1 << 31, 1 << 31, 1 << 31], [1 << 40, 0], [48, 33], [32, 48], [-1], [1.5]]
)
def test_shapes_that_are_not_the_layers_are_found_before_memory_is_taken(tmp_path, originals, shape):
    def change(document):
        document["shapes"][0] = shape

    tracemalloc.start()
    result = outcome(tmp_path / "f", with_index(originals[0], change))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(result, str) or result["encoder.weight"].shape == tuple(shape) == (32, 48)
    assert peak < 20 << 20


@pytest.mark.parametrize("shape", [(1 << 61, 1 << 61, 0), (1 << 32, 1 << 32)])
def test_views_of_sizes_no_tensor_has_are_refused(tmp_path, shape):
    write(tmp_path / "f", {"a": torch.ones(4, 4)}, {"view": View("a", shape, (0,) * len(shape), 0)})
    with pytest.raises(FormatError, match="'ties' makes no sense"):
        CompressedFile.open(tmp_path / "f")


RECORD = {"tol": 0.1, "error": 0.05, "calibration_error": 0.05, "samples": 10, "seed": 0}
KERNEL = {"tol": 0.0, "samples": 1, "error": 0.0, "alignment": math.nan, "min_eigenvalue": 0.0, "trace_ratio": 1.0}


@pytest.mark.parametrize(
    "info",
    [
        {"network": RECORD | {"rate_limit_bytes": math.nan}},
        {"network": RECORD | {"rate_limit_bytes": math.inf}},
        {"network": RECORD | {"tol": 0.0, "error": 0.0}},
        {"network": RECORD | {"error": math.nan}},
        {"network": RECORD | {"ntk": KERNEL}},
        {"source": {"bytes": 10**400}},
    ],
)
def test_whatever_numbers_a_file_holds_its_report_can_be_drawn(tmp_path, info):
    write(tmp_path / "f", {"a": torch.ones(4, 4)}, **info)
    report = read_report(tmp_path / "f")
    assert render_report_html(report) and render_json(report) and report_view(report, 80)


def test_sizes_no_machine_has_are_refused(tmp_path, originals):
    def change(document):
        document["shapes"][0] = [1 << 25, 1 << 25]
        document["decoded_bytes"] += ((1 << 50) - 48 * 32) * 4

    message = outcome(tmp_path / "f", with_index(originals[0], change))
    assert "memory" in message or "makes no sense" in message


def test_compressed_index_cannot_blow_up(tmp_path, originals):
    bombs = {ZSTD: zstandard.ZstdCompressor(level=1).compress(b" " * (1 << 28))}
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    bombs[DEFLATE] = deflater.compress(b" " * (1 << 28)) + deflater.flush()
    for code, body in bombs.items():
        data = with_pool(originals[0], bytes([code]) + body, pool(originals[0])[1])
        tracemalloc.start()
        assert "index does not decode" in outcome(tmp_path / "f", data)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
        tracemalloc.stop()


@pytest.mark.parametrize(
    "document", [b"", b"\x00", b"\x00[]", b"\x00{}", b"\x00" + b"[" * 100_000, b"\x09{}", b'\x00{"a":1,"a":2}']
)
def test_index_that_is_no_index_is_found(tmp_path, originals, document):
    assert isinstance(outcome(tmp_path / "f", with_pool(originals[0], document, pool(originals[0])[1])), str)


def test_damaged_layer_is_named(tmp_path, originals):
    data = bytearray(originals[1])
    data[parse_header(memoryview(originals[1]))[POOL].end - 2000] ^= 1
    assert "net.2.weight" in outcome(tmp_path / "f", bytes(data))
    data = bytearray(originals[1])
    data[parse_header(memoryview(originals[1]))["net.2.bias"].begin] ^= 1
    assert "untouched" in outcome(tmp_path / "f", bytes(data))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["encoder.bias"].update(data_offsets=[0, 8]), "contradicts"),
        (lambda d: d["encoder.bias"].update(shape=[-48]), "contradicts"),
        (lambda d: d["encoder.bias"].update(shape=[48, 1 << 62]), "contradicts"),
        (lambda d: d["encoder.bias"].update(dtype="F13"), "contradicts"),
        (lambda d: d["encoder.bias"].pop("shape"), "contradicts"),
        (lambda d: d["encoder.bias"].update(data_offsets=[1 << 70, (1 << 70) + 192]), "contradicts"),
        (lambda d: d.update({"encoder.bias": 3}), "contradicts"),
        (lambda d: d.pop("encoder.bias"), "gap|accounts"),
        (lambda d: d.pop(POOL), "gap|accounts"),
        (lambda d: d.update(extra={"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}), "number of tensors"),
        (lambda d: d["__metadata__"].update(version="2"), "upgrade"),
        (lambda d: d["__metadata__"].update(format="pt"), "not a compressed"),
    ],
)
def test_header_that_contradicts_itself_is_found(tmp_path, originals, change, says):
    assert re.search(says, outcome(tmp_path / "f", rewrite_header(originals[0], change)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty or cut off"),
        (b"PK\x03\x04" + b"\0" * 100, "not a compressed model"),
        (b"just some text, long enough to look at", "not a compressed model"),
        (b"\xff" * 64, "not a compressed model"),
        ((100).to_bytes(8, "little") + b"{}" + b" " * 20, "cut off"),
    ],
)
def test_other_files_are_told_apart(tmp_path, data, says):
    assert says in outcome(tmp_path / "f", data)


def test_ordinary_safetensors_file_is_told_what_to_do(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(3)}, tmp_path / "f")
    assert "compress it first" in outcome(tmp_path / "f", (tmp_path / "f").read_bytes())


def test_file_written_again_by_another_tool_is_told(tmp_path, originals):
    from safetensors import safe_open
    from safetensors.torch import save_file

    (tmp_path / "f").write_bytes(originals[0])
    with safe_open(tmp_path / "f", "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors, tmp_path / "g", metadata=metadata)
    assert isinstance(outcome(tmp_path / "g", (tmp_path / "g").read_bytes()), str)


def test_pipes_are_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not is_compressed(tmp_path / "pipe")
    with pytest.raises(FormatError, match="device or a pipe"):
        CompressedFile.open(tmp_path / "pipe")


@pytest.mark.parametrize("path", ["missing", "."])
def test_path_that_is_no_file_is_one_line(tmp_path, path):
    with pytest.raises(FormatError, match="cannot be read"):
        CompressedFile.open(tmp_path / path)


def test_a_pattern_that_takes_for_ever_is_refused_and_the_tensors_are_there(tmp_path, originals):
    source = tmp_path / "model.pt"
    torch.save({"a" * 60: torch.ones(2)}, source)
    data = with_index(originals[1], lambda document: document.update(settings={"drop": ["re:(a+)+b"]}))
    assert isinstance(outcome(tmp_path / "f", data), dict) and not read_report(tmp_path / "f").left_behind
    with pytest.raises(SettingsError, match="is not run"):
        verify(tmp_path / "f", source)
