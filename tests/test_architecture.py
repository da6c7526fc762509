"""Claims about the house: imports go one way, each room keeps to its own, the public names are frozen."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import hmcompress

PACKAGE = Path(hmcompress.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

LEVELS = (
    {"errors"},
    {"late", "geometry", "element_types", "texts", "settings", "work", "coding"},
    {"hmatrix"},
    {"container", "checkpoint", "layers"},
    {"network", "nn", "report", "baselines"},
    {"commands"},
    {"pipeline"},
    {"cli"},
)
ABOVE_ALL = {"__init__", "__main__"}  # the public names come from every room

LATE = {  # what takes up to a second to import, and few commands need
    "pipeline.py": {"hmcompress.network", "hmcompress.commands.compare", "hmcompress.commands.compare_outputs"},
    "commands/verifying.py": {"hmcompress.network", "hmcompress.network.bound.recheck"},
    "commands/restoring.py": {"hmcompress.commands.slimming"},
    "report/files.py": {"hmcompress.container.atomic"},
    "network/model/inputs.py": {"scipy.stats"},
    "hmatrix/grids/adaptive_scales.py": {"hmcompress.hmatrix.grids.kernels"},
}

FOREIGN = {"rich": {"report/table.py", "report/verdict_table.py", "report/terminal.py"}, "click": {"cli.py"}}
LIBRARIES = {"torch", "numpy", "scipy", "threadpoolctl"}
HMATRIX_MAY_IMPORT = LIBRARIES | {"hmcompress.errors", "hmcompress.coding", "hmcompress.hmatrix"}
FOLDERS = {  # of a room, each built on those before it alone; nothing is what lies in no folder
    "hmatrix": ("basics", "tree", "patterns", "grids", ""),
    "network": ("model", "bound", "layerwise", "joint", ""),
}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def level_of(room: str) -> int:
    if room in ABOVE_ALL:
        return len(LEVELS)
    return next(i for i, rooms in enumerate(LEVELS) if room in rooms)


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def in_room(*rooms: str) -> list[Path]:
    return [path for path in MODULES if room_of_file(path) in rooms]


def imports(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: imports are absolute"
            module = node.module or ""
            yield from ([f"hmcompress.{a.name}" for a in node.names] if module == "hmcompress" else [module])


def room_of_file(path: Path) -> str:
    return name_of(path).split("/")[0].removesuffix(".py")


def test_every_module_has_a_level():
    rooms = set().union(*LEVELS, ABOVE_ALL)
    assert not [name_of(path) for path in MODULES if room_of_file(path) not in rooms]


def test_imports_go_one_way():
    for path in MODULES:
        room = room_of_file(path)
        for module in imports(path):
            if module.split(".")[0] != "hmcompress" or room_of(module) == room:
                continue
            assert level_of(room_of(module)) <= level_of(room), f"{name_of(path)} imports {module}"


def test_no_rooms_import_each_other():
    """Rooms of one level may use each other, as rules use config, but never in a circle."""
    uses = {room_of_file(path): set() for path in MODULES if room_of_file(path) not in ABOVE_ALL}
    for path in MODULES:
        inside = {room_of(m) for m in imports(path) if m.split(".")[0] == "hmcompress"}
        uses.get(room_of_file(path), set()).update(inside - ABOVE_ALL - {room_of_file(path)})
    while leaves := {room for room, used in uses.items() if not used}:
        uses = {room: used - leaves for room, used in uses.items() if room not in leaves}
    assert not uses, f"circle among {sorted(uses)}"


def test_the_terminal_stays_at_the_edge():
    for path in MODULES:
        for module in imports(path):
            allowed = FOREIGN.get(module.split(".")[0])
            assert allowed is None or name_of(path) in allowed, f"{name_of(path)} imports {module}"


def test_hmatrix_knows_mathematics_only():
    standard = {"__future__", "math", "dataclasses", "typing", "collections", "functools", "itertools", "struct",
                "enum", "abc", "io", "operator", "concurrent", "os", "zlib", "contextlib", "heapq"}  # fmt: skip
    for path in in_room("hmatrix"):
        for module in imports(path):
            head = module.split(".")[0]
            known = head in standard | {"torch", "numpy", "scipy", "numba"}
            own = ".".join(module.split(".")[:2])
            assert known or own in HMATRIX_MAY_IMPORT, f"{name_of(path)} imports {module}"


def folder_of(module: str) -> str:
    """`tree` for hmcompress.hmatrix.tree.blocks; nothing for what lies in no folder, which uses them all."""
    parts = module.split(".")
    return parts[2] if len(parts) > 2 and parts[2] in FOLDERS[parts[1]] else ""


def test_folders_of_a_room_build_on_each_other():
    for path in in_room(*FOLDERS):
        room = room_of_file(path)
        own = folder_of(f"hmcompress.{name_of(path).removesuffix('.py').replace('/', '.')}")
        used = {folder_of(module) for module in imports(path) if room_of(module) == room}
        assert used <= set(FOLDERS[room][: FOLDERS[room].index(own) + 1]), name_of(path)


def test_imports_stand_at_the_top_but_for_slow_ones():
    """Optional extras and torch on demand go through importlib in one named place."""
    for path in MODULES:
        functions = [n for n in nodes(path) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
        inside = [n for f in functions for n in ast.walk(f) if isinstance(n, ast.Import | ast.ImportFrom)]
        modules = {n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in inside}
        assert modules <= LATE.get(name_of(path), set()), name_of(path)


def test_a_model_of_weights_loads_no_slow_import():
    """Compress, report and verify in the weights metric start without what only networks need."""
    code = "import sys, hmcompress.pipeline; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"scipy.stats", "numba", "hmcompress.network", "hmcompress.nn"} & set(done.stdout.split())


def test_files_can_be_read_in_one_sitting():
    assert not [name_of(path) for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > 300]


def test_no_error_is_swallowed():
    for path in MODULES:
        for node in nodes(path):
            if isinstance(node, ast.ExceptHandler):
                where = f"{name_of(path)} line {node.lineno}"
                assert node.type is not None, f"{where}: bare except"
                silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
                broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
                assert not (silent and broad), where


def test_the_public_names_are_frozen():
    assert set(hmcompress.__all__) == {
        "BoundError", "FormatError", "HMCompressError", "HMatrix", "NetworkError", "OutputError", "SettingsError",
        "SourceError", "bench", "compress", "compress_matrix", "decompress", "export", "load_checkpoint", "load_model",
        "load_state_dict", "read_report", "verify",
    }  # fmt: skip


def test_no_two_test_modules_have_one_name():
    """pytest imports them by their names: the second of two would not be collected."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py") if path.name not in ("__init__.py", "conftest.py")]
    assert sorted(names) == sorted(set(names))
