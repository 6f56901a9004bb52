"""Promise: the house stays as it is drawn: its public names, its doors, its documents."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import evomerge
from evomerge.cli.main import COMMANDS
from evomerge.operators.registry import operators
from evomerge.recipe.load import load
from evomerge.recipe.refine import Refinement
from evomerge.recipe.search import SearchRecipe
from evomerge.search.strategies import STRATEGIES

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "evomerge").rglob("*.py"))

DOORS = {
    "click": {"cli"},
    "lm_eval": {"evaluation"},
    "nevergrad": {"search"},
    "peft": {"refinement"},
    "rapidfuzz": {"refinement"},
    "ray": {"executors"},
    "rich": {"cli"},
    "ruamel": {"recipe"},
    "sqlite3": {"store"},
    "transformers": {"evaluation", "live_model.py", "refinement"},
    "vllm": {"evaluation"},
}
"""The rooms that may import a library."""


def imported(file: Path) -> set[str]:
    """Top-level names of the packages that a file imports, wherever it does."""
    tree = ast.parse(file.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("library", sorted(DOORS))
def test_a_heavy_library_has_one_door(library: str) -> None:
    rooms = {
        file.relative_to(ROOT / "evomerge").parts[0]
        for file in SOURCES
        if library in imported(file)
    }
    assert rooms == DOORS[library]


def test_the_public_names_are_these() -> None:
    assert evomerge.__all__ == [
        "EvomergeError",
        "MergeRecipe",
        "Rule",
        "RunStore",
        "SearchRecipe",
        "Source",
        "SourceLibrary",
        "digest",
        "export_checkpoint",
        "leaderboard",
        "load",
        "resume",
        "start_or_continue",
    ]
    assert all(getattr(evomerge, name) is not None for name in evomerge.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        evomerge.nothing  # noqa: B018 (looking it up is the point)


def test_the_store_and_the_search_leave_torch_alone() -> None:
    code = (
        "import sys, evomerge.store.database, evomerge.search.strategies, evomerge.genome.genome\n"
        "print(sorted({'torch', 'ray', 'transformers', 'lm_eval'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    long = {file.name for file in SOURCES if len(file.read_text().splitlines()) > 400}
    assert long == set()


def test_the_readme_names_every_command_operator_and_strategy() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in (*COMMANDS, *operators(), *STRATEGIES):
        assert f"`{name}`" in readme or f"evomerge {name}" in readme, name


def test_the_recipes_in_the_readme_are_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    whole = next(block for block in blocks if block.startswith("version:"))
    # The others are parts of a search recipe.
    for block in ("", *(block for block in blocks if block != whole)):
        (tmp_path / "recipe.yaml").write_text(whole + block)
        load(SearchRecipe, tmp_path / "recipe.yaml")


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda f: f.name)
def test_every_recipe_we_ship_is_valid(file: Path) -> None:
    load(Refinement if file.stem.endswith("-refine") else SearchRecipe, file)


def test_relative_links_in_the_documents_lead_somewhere() -> None:
    for document in ROOT.glob("*.md"):
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
            assert (ROOT / link).exists(), f"{document.name}: {link}"


def test_the_constraints_pin_what_the_project_needs() -> None:
    pinned = {
        line.partition("==")[0].lower().replace("_", "-"): line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    text = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r'^  "([A-Za-z][\w.-]*)[><=]', text, re.MULTILINE)
    assert len(wanted) > 15
    assert {name.lower().replace("_", "-") for name in wanted} <= pinned.keys()
