"""The import graph: no circle, and no engine file that imports from the layers above it.

Every import counts, also one inside a function or under `TYPE_CHECKING`. A name that is no module of a package is
defined in the package's `__init__`, so importing it is importing that.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.running import ROOT

import pytest

NOT_ENGINE = {"tinymi.__main__", "tinymi.sweep"}  # of the files that lie beside tinymi/model.py
ABOVE = ("tinymi.teaching", "tinymi.commands", "tinymi.serve", "tinymi.checkpoint")
Graph = dict[str, set[str]]  # module -> the modules that it imports


def module_name(path: Path, root: Path) -> str:
    """tinymi/a/b.py is tinymi.a.b, and tinymi/a/__init__.py is tinymi.a."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_graph(root: Path) -> Graph:
    files = {module_name(path, root): path for path in (root / "tinymi").rglob("*.py")}
    graph: Graph = {}
    for module, path in files.items():
        names = [name for name in imported_names(path) if name.split(".")[0] == "tinymi"]
        graph[module] = {name if name in files else name.rpartition(".")[0] for name in names}
        assert graph[module] <= files.keys(), f"{path} imports a module that does not exist"
    return graph


def circle(graph: Graph) -> list[str]:
    """Modules of which each imports the next, and the last is the first again; empty where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        modules: list[str] = error.args[1]
        return modules[::-1]  # graphlib names them against the direction of import
    return []


def test_no_module_reaches_back() -> None:
    assert circle(import_graph(ROOT)) == []


def reached(module: str, graph: Graph) -> set[str]:
    """What importing a module imports, directly or through others."""
    modules: set[str] = set()
    waiting = [module]
    while waiting:
        new = graph[waiting.pop()] - modules
        modules |= new
        waiting += new
    return modules


def reaching_up(graph: Graph) -> dict[str, set[str]]:
    """Files beside tinymi/model.py that import from the layers above the engine: module -> what it reaches there."""
    engine = [module for module in graph if module.count(".") == 1 and module not in NOT_ENGINE | {*ABOVE}]
    above = {module: {name for name in reached(module, graph) if name.startswith(ABOVE)} for module in engine}
    return {module: names for module, names in above.items() if names}


def test_the_engine_imports_nothing_from_the_layers_above() -> None:
    assert reaching_up(import_graph(ROOT)) == {}


def test_an_engine_file_that_reaches_up_is_noticed() -> None:
    graph = import_graph(ROOT)
    graph["tinymi.text"].add("tinymi.teaching.glossary")
    assert reaching_up(graph)["tinymi.model"] == {"tinymi.teaching.glossary"}


@pytest.mark.parametrize("statement", ["from tinymi import b", "import tinymi.b", "from tinymi.b import f"])
@pytest.mark.parametrize("place", ["{}", "def f():\n    {}", "if TYPE_CHECKING:\n    {}"])
def test_a_planted_circle_is_noticed(statement: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "tinymi").mkdir()
    for name, text in {"__init__": "", "a": place.format(statement), "b": "from tinymi.c import g", "c": ""}.items():
        (tmp_path / "tinymi" / f"{name}.py").write_text(text)
    assert circle(import_graph(tmp_path)) == []
    (tmp_path / "tinymi" / "c.py").write_text("from tinymi import a")
    assert set(circle(import_graph(tmp_path))) == {"tinymi.a", "tinymi.b", "tinymi.c"}


def test_a_name_from_a_package_counts_as_its_init(tmp_path: Path) -> None:
    (tmp_path / "tinymi" / "p").mkdir(parents=True)
    files = {"__init__": "", "p/__init__": "from tinymi.p.a import f", "p/a": "from tinymi.p import f"}
    for name, text in files.items():
        (tmp_path / "tinymi" / f"{name}.py").write_text(text)
    assert set(circle(import_graph(tmp_path))) == {"tinymi.p", "tinymi.p.a"}
