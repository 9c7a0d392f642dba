"""The law of the house: imports point down only, packages of one floor do not know each other, and there is no circle.

All imports count: those inside functions, and those for type checkers alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: From the ground up. What stands in one line is on one floor: these packages never import each other. "kachery_p2p" is
#: the modules beside the packages: one truth for each question that several packages ask.
FLOORS: list[set[str]] = [
    {"kachery_p2p"},
    {"kachery_p2p.dag", "kachery_p2p.access"},
    {"kachery_p2p.repo"},
    {
        "kachery_p2p.bitswap",
        "kachery_p2p.routing",
        "kachery_p2p.transport",
        "kachery_p2p.gateway",
        "kachery_p2p.pinning",
    },
    {"kachery_p2p.load", "kachery_p2p.membership"},
    {"kachery_p2p.node"},
    {"kachery_cloud"},
]
#: The same of the packages of kachery_cloud. The modules beside them, which are the API, stand on what they use, and
#: not on the commands.
CLOUD_FLOORS: list[set[str]] = [
    {"kachery_cloud.formats", "kachery_cloud.settings"},
    {"kachery_cloud.encryption", "kachery_cloud.figures", "kachery_cloud.lab"},
    {"kachery_cloud.node"},
    {"kachery_cloud.doctor", "kachery_cloud.opening", "kachery_cloud.ownership"},
    {"kachery_cloud.commands"},
]
CLOUD_FLOOR = {package: number for number, floor in enumerate(CLOUD_FLOORS) for package in floor}
FLOOR = {package: number for number, floor in enumerate(FLOORS) for package in floor}


def modules() -> dict[str, Path]:
    """All modules of the product, by their dotted names."""
    found: dict[str, Path] = {}
    for top in ("kachery_p2p", "kachery_cloud"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """The modules of the product that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


GRAPH = {name: set(imports(name)) - {name} for name in MODULES}

#: One model in two files, which are of no use without each other.
ONE_MODEL = [
    ["kachery_p2p.bitswap.link", "kachery_p2p.bitswap.session"],
    ["kachery_p2p.transport.yamux", "kachery_p2p.transport.yamux_stream"],
]


def package_of(module: str) -> str:
    """The package of the table that a module belongs to."""
    while module not in FLOOR:
        module = module.rpartition(".")[0]
        assert module, "every package has its floor"
    return module


def test_imports_point_down() -> None:
    """No package imports one above it, nor another one of its own floor."""
    wrong = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if package_of(name) != package_of(other) and FLOOR[package_of(name)] <= FLOOR[package_of(other)]
    ]
    assert wrong == []


def cloud_package_of(module: str) -> str | None:
    """The package of kachery_cloud that a module belongs to; None for one beside them, or of kachery_p2p."""
    return next((package for package in CLOUD_FLOOR if f"{module}.".startswith(f"{package}.")), None)


def test_packages_of_the_api_import_downwards() -> None:
    """Nor does a package of kachery_cloud import one above it, or beside it."""
    wrong = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if (package := cloud_package_of(name)) is not None
        and (imported := cloud_package_of(other)) not in (None, package)
        and CLOUD_FLOOR[package] <= CLOUD_FLOOR[imported]
    ]
    assert wrong == []


def test_nothing_below_imports_the_commands() -> None:
    """What is said on a terminal is the uppermost; what others need of it is not said there."""
    wrong = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if cloud_package_of(other) == "kachery_cloud.commands" and cloud_package_of(name) != "kachery_cloud.commands"
    ]
    assert wrong == []


def test_every_package_has_its_floor() -> None:
    """Else it would count as the ground, on which everything may stand."""
    below = {".".join(name.split(".")[:2]) for name in MODULES if len(name.split(".")) > 2}
    assert {name for name in below if name.startswith("kachery_p2p.")} == set(FLOOR) - {"kachery_p2p", "kachery_cloud"}
    assert {name for name in below if name.startswith("kachery_cloud.")} == set(CLOUD_FLOOR)


def circles() -> list[list[str]]:
    """The groups of modules that import each other, round about (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in GRAPH[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in GRAPH:
        if name not in index:
            visit(name)
    return sorted(found)


def test_no_circles() -> None:
    """No module imports itself by way of others; but for the models that are cut in two files."""
    assert circles() == ONE_MODEL
