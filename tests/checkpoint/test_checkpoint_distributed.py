"""Folders of torch.distributed.checkpoint: pieces are put together, and nothing outside the folder is read."""

import pickle

import pytest
import torch
from checkpoint_files import assert_same, restored, small_state
from torch.distributed import checkpoint as distributed
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from hmcompress import compress, decompress, verify
from hmcompress.checkpoint import open_checkpoint
from hmcompress.errors import SourceError


def saved_object():
    net = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Linear(30, 2))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 20)).sum().backward()
    optimizer.step()
    return {"model": net.state_dict(), "optim": optimizer.state_dict(), "step": 3, "list": [torch.ones(2), "x"]}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "step3"
    distributed.save(saved_object(), checkpoint_id=made)
    return made


def test_it_is_what_torch_converts_it_to(folder, tmp_path):
    dcp_to_torch_save(folder, tmp_path / "converted.pt")
    checkpoint = open_checkpoint(folder)
    assert_same(restored(checkpoint), torch.load(tmp_path / "converted.pt", weights_only=False))
    assert checkpoint.left_behind == ()
    assert {file.name for file in checkpoint.files} == {".metadata", "__0_0.distcp"}


def test_it_goes_through_all_commands(folder, tmp_path):
    compress(folder, tmp_path / "x.hmc.safetensors", tol=1e-2)
    assert verify(tmp_path / "x.hmc.safetensors", folder).passed
    decompress(tmp_path / "x.hmc.safetensors", tmp_path / "x.pt")
    assert torch.load(tmp_path / "x.pt", weights_only=False)["step"] == 3


def change(folder, edit):
    table = pickle.loads((folder / ".metadata").read_bytes())
    edit(table)
    (folder / ".metadata").write_bytes(pickle.dumps(table))


def in_pieces(folder):
    """A (6, 4) tensor in a piece of all rows and 3 columns, and one of the other column, as tensor parallelism has."""
    whole = small_state()["net.0.weight"]
    distributed.save({"w": whole, "a": whole[:, :3].clone(), "b": whole[:, 3:].clone()}, checkpoint_id=folder)

    def edit(table):
        entries, places = table.state_dict_metadata, table.storage_data
        at = {key.fqn: (key, place) for key, place in places.items()}
        entries["w"].chunks = [
            ChunkStorageMetadata(torch.Size((0, 0)), torch.Size((6, 3))),
            ChunkStorageMetadata(torch.Size((0, 3)), torch.Size((6, 1))),
        ]
        places.clear()
        for name, offset in (("a", (0, 0)), ("b", (0, 3))):
            places[distributed.metadata.MetadataIndex("w", offset)] = at[name][1]
            del entries[name]

    change(folder, edit)
    return whole


def test_pieces_along_any_side_make_up_a_tensor(tmp_path):
    whole = in_pieces(tmp_path)
    assert_same(restored(open_checkpoint(tmp_path)), {"w": whole})


def hide(table):
    table.state_dict_metadata = None


def lose_a_piece(table):
    del table.state_dict_metadata["model.0.weight"].chunks[0]


def enlarge(table):
    entry = table.state_dict_metadata["model.0.weight"]
    entry.size = entry.chunks[0].sizes = torch.Size((1 << 30, 1 << 20))


def move(table):
    table.state_dict_metadata["model.0.weight"].chunks[0].offsets = torch.Size((1, 0))


def lead_out(table):
    next(iter(table.storage_data.values())).relative_path = "../../etc/passwd"


def name_another(table):
    next(iter(table.storage_data.values())).relative_path = "__9_0.distcp"


def reach_beyond(table):
    next(iter(table.storage_data.values())).offset = 1 << 40


def squeeze(table):
    next(iter(table.storage_data.values())).transform_descriptors = ["stream.zstd/1"]


def put_in_one_place(table):
    table.planner_data["step"] = ("model", "0.weight")


def nest_deeply(table):
    table.planner_data["step"] = ("x",) * 5000


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (hide, "unknown release"),
        (lose_a_piece, "do not make up"),
        (enlarge, "unfold"),
        (move, "does not say where|beyond its tensor"),
        (lead_out, "no file beside it"),
        (name_another, "is missing"),
        (reach_beyond, "truncated"),
        (squeeze, "compressed; convert"),
        (nest_deeply, "too deeply"),
    ],
)
def test_tables_that_say_what_is_not_so_are_one_line(folder, edit, told):
    change(folder, edit)
    with pytest.raises(SourceError, match=told):
        open_checkpoint(folder)


def test_a_piece_of_another_shape_is_found_when_it_is_read(tmp_path):
    in_pieces(tmp_path)

    def swap(table):
        (a, first), (b, second) = table.storage_data.items()
        table.storage_data.update({a: second, b: first})

    change(tmp_path, swap)
    with pytest.raises(SourceError, match="another shape"):
        open_checkpoint(tmp_path).entries["w"].load()


def test_a_folder_without_its_table_says_so(folder):
    (folder / ".metadata").unlink()
    with pytest.raises(SourceError, match=r"\.metadata"):
        open_checkpoint(folder)


def test_a_folder_around_it_names_it(folder):
    with pytest.raises(SourceError, match="name a folder in it: step3"):
        open_checkpoint(folder.parent)


def test_nothing_in_its_table_is_run(folder, tmp_path):
    marker = tmp_path / "ran"

    class Call:
        def __reduce__(self):
            return exec, (f"open({str(marker)!r}, 'w').close()",)

    change(folder, lambda table: setattr(table, "storage_meta", Call()))
    open_checkpoint(folder)
    assert not marker.exists()
