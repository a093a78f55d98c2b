"""Rooms and floors (DESIGN.md): a file imports only from lower floors, or from its own room; and nf answers without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import neuralfield

PACKAGE = Path(neuralfield.__file__).parent
FLOORS = [
    {"types", "kernels", "registry", "likelihoods", "pyramid", "measurements", "errors", "files", "seeds", "devices"},
    {"domains", "latents"},
    {"signals", "decoders"},
    {"objective", "contrastive"},
    {"inference"},
    {"run", "recipe", "recipes", "completion", "calibration"},
    {"explore", "export", "training"},
    {"cli", "app"},
]
SHARED = {1, 4, 6}
"""Floors that are files, not rooms: they may import one another."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}
OUTSIDE = {"__init__", "__main__"}
"""The two doors of the building; nothing inside imports them."""
FILES = {path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path for path in PACKAGE.rglob("*.py")}
MODULES = {name.removesuffix(".__init__") for name in FILES} - OUTSIDE


def imports(name: str) -> set[str]:
    """Modules of the package that a file imports, anywhere in it; what is no module stays as it was written."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "neuralfield"}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively, line {node.lineno}"
            if (node.module or "").split(".")[0] == "neuralfield":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found.add(whole if whole.removeprefix("neuralfield.") in MODULES else str(node.module))
    return {module.removeprefix("neuralfield.") for module in found}


def room(module: str) -> str:
    return module.split(".")[0]


INSIDE = sorted(set(FILES) - OUTSIDE)


@pytest.mark.parametrize("name", INSIDE)
def test_every_file_stands_on_a_floor(name: str) -> None:
    assert room(name) in FLOOR, "give it a floor in DESIGN.md, and here"


@pytest.mark.parametrize("name", INSIDE)
def test_a_file_imports_only_from_lower_floors_or_its_own_room(name: str) -> None:
    here = FLOOR[room(name)]
    for module in imports(name):
        there = FLOOR.get(room(module), 0)
        own = room(module) == room(name)
        assert there, f"{name} imports {module}, which is no module of the package: names come from where they are defined"
        assert there < here or own or (there == here and here in SHARED), f"{name} (floor {here}) imports {module} (floor {there})"


@pytest.mark.parametrize("name", INSIDE)
def test_nothing_inside_imports_the_public_names(name: str) -> None:
    assert "neuralfield" not in imports(name), f"{name} imports from the package's front door"
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            assert all(alias.name != "neuralfield" for alias in node.names)


def test_there_are_no_import_circles() -> None:
    graph = {name: {m if m in FILES else f"{m}.__init__" for m in imports(name)} & set(FILES) for name in FILES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in graph[name] - {name}:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert done == set(FILES)


def test_the_import_parser_sees_what_there_is() -> None:
    # a law about imports that sees none would always hold
    assert {"types", "errors", "inference.solver", "signals.signals"} <= imports("run")
    assert "training.fit" in imports("cli.fit")  # inside a function
    assert sum(len(imports(name)) for name in INSIDE) > 100


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    assert not {"utils", "helpers", "common", "misc"} & {part for name in FILES for part in name.split(".")}


def test_every_folder_with_an_interface_names_its_file_after_it() -> None:
    for folder, interface in (
        ("decoders", "decoder"),
        ("domains", "domain"),
        ("signals", "signals"),
        ("latents", "source"),
        ("inference", "solver"),
        ("training/schedules", "schedule"),
    ):
        assert (PACKAGE / folder / f"{interface}.py").is_file()


def test_nf_answers_without_importing_torch() -> None:
    script = "import sys, neuralfield, neuralfield.cli.main; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
