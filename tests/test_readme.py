"""Claims of the README: its commands run, its links exist, its figures are what the commands give."""

import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from hmcompress import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def load_figures():
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figures = load_figures()
ROWS = [row for row in figures.rows(README) if "$HMC_ZOO" not in row]
QUICK = [row for row in ROWS if "--tol" in row]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What a fresh clone holds, as far as the README needs it."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "sample_models").mkdir()
    shutil.copy(ROOT / "sample_models" / "burgers.pt", folder / "sample_models")
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


def test_the_two_commands_stand_there():
    assert "python -m venv .venv && . .venv/bin/activate && pip install . && hmcompress compress" in README
    assert "pip install -e '.[test]' && python -m pytest -n 2" in README


def test_everything_in_the_readme_runs(clone, monkeypatch, capsys):
    """Installing is left to CI, which starts from a fresh environment."""
    monkeypatch.chdir(clone)
    for block in blocks(README, "bash"):
        for command in block.strip().splitlines():
            last = command.split("&&")[-1].strip()
            if last.startswith("hmcompress "):
                assert cli.run(shlex.split(last)[1:]) == 0, last
    written = {path.name for path in clone.iterdir()} | {path.name for path in (clone / "sample_models").iterdir()}
    assert {"burgers.hmc.safetensors", "burgers.html", "burgers_restored.pt"} <= written
    for block in blocks(README, "python"):
        exec(compile(block, "README.md", "exec"), {})
    assert re.search(r"^\d+\.\dx 0\.0\d+$", capsys.readouterr().out, re.MULTILINE)


def test_the_python_of_the_guide_runs(clone, monkeypatch):
    monkeypatch.chdir(clone)
    shutil.copy(ROOT / "sample_models" / "burgers.pt", "model.pt")
    assert cli.run(["compress", "model.pt", "--quiet"]) == 0
    for block in blocks((ROOT / "docs" / "guide.md").read_text(encoding="utf-8"), "python"):
        exec(compile(block, "guide.md", "exec"), {})


def test_the_commands_of_the_guide_exist():
    for page in PAGES:
        for command in re.findall(r"^hmcompress .*$", page.read_text(encoding="utf-8"), re.MULTILINE):
            name, *arguments = shlex.split(command.split(" #")[0])[1:]
            cli.commands.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_the_figures_are_filled_in(row):
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 7 and all(cells) and "-" not in cells[2:6]


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.split("|")[1].strip())
def test_the_figures_are_what_the_commands_give(row, monkeypatch, capsys):
    """Within two per cent, for processors round differently; `python docs/figures.py` renews them."""
    monkeypatch.chdir(ROOT)
    assert cli.run([*figures.command_of(row), "--dry-run", "--json"]) == 0
    claimed = float(row.split("|")[5].strip().removesuffix("x"))
    assert json.loads(capsys.readouterr().out)["ratio"] >= 0.98 * claimed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link
