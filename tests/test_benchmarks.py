"""Promise: no benchmark imports what the package does not have any more."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_every_name_that_a_benchmark_imports_exists(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if node.module and node.module.partition(".")[0] == "evomerge":
            module = importlib.import_module(node.module)
            for name in node.names:
                where = f"{node.module}.{name.name}"
                assert hasattr(module, name.name) or importlib.util.find_spec(where), where
