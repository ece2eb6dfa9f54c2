"""Rules of the project that no tool checks: who imports whom, who reads the environment, how long things are,
and that the documents name everything there is."""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from server.app import served_routes
from server.config import SETTINGS
from server.observability.storage_metrics import COUNTERS, GAUGES, LABELLED

ROOT = Path(__file__).parents[2]
FOLDERS = ("server", "storage", "pricing")
SOURCES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
OTHERS = sorted((ROOT / "benchmarks").rglob("*.py"))
LINES_MAX = 600
FUNCTION_LINES_MAX = 60
HEAD = re.compile(r"^#+ (.+)$", re.MULTILINE)
LOG_LINE = re.compile(r"\blog `([^`]+)`")
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
MAY_IMPORT = {"server": {"server", "storage", "pricing"}, "storage": {"storage"}, "pricing": {"pricing"}}
BELONGS_TO = {
    "aiohttp": "server",
    "jinja2": "server",
    "uvloop": "server",
    "prometheus_client": "server",
    "trimesh": "pricing",
    "numpy": "pricing",
    "scipy": "pricing",
    "numba": "pricing",
    "lxml": "pricing",
    "sqlalchemy": "storage",
    "aiosqlite": "storage",
    "sqlite3": "storage",
    "alembic": "storage",
    "asyncpg": "storage",
}


TOP = {
    *("server", "pricing", "storage", "tests", "benchmarks", "deploy", "docs", ".ci"),
    *("README.md", "CHANGELOG.md", "Dockerfile", "facet", "setup.cfg", "pyproject.toml", "ruff.toml"),
    *("requirements.lock", "requirements-test.lock", "requirements-demo.lock", ".gitignore", ".dockerignore"),
}


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported_by(tree: ast.AST) -> Iterator[str]:
    """Full names, of imports anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_imports_go_one_way(file: Path) -> None:
    folder = file.relative_to(ROOT).parts[0]
    for name in imported_by(tree_of(file)):
        top = name.partition(".")[0]
        if top in MAY_IMPORT:
            assert top in MAY_IMPORT[folder], f"{folder} must not import {name}"
        assert top not in ("tests", "benchmarks", "pickle"), name
        assert BELONGS_TO.get(top, folder) == folder, f"only {BELONGS_TO.get(top)} imports {top}"


LEVELS = {
    "pricing": (
        ("errors", "units", "facts", "jit", "sample_ring"),
        ("price", "readers"),
        ("mesh",),
        ("second_opinion",),
        ("pool",),
    ),
    "storage": (
        ("errors", "clock", "bounds", "ids", "tasks", "trouble", "data_directory"),
        ("memory", "shared", "orders"),
        ("log",),
        ("database",),
        ("cache", "models", "embedded", "redis", "sqlite"),
        ("postgresql",),
        ("services",),
    ),
    "server": (
        ("config", "links", "open_servers", "backups", "garbage_collector"),
        ("http", "engines"),
        ("uploads",),
        ("jobs",),
        ("prices", "observability"),
        ("api",),
        ("pages",),
        ("app",),
        ("process",),
        ("demo",),
        ("commands",),
        ("__main__",),
    ),
}
"""From the ground up. A place imports lower levels only; neighbours of one level do not know each other, but
for the ground, whose files may."""
NEVER = (
    ("pricing/price", "pricing/readers"),
    ("pricing/mesh", "pricing/price"),
    ("storage/services", "storage/sqlite"),
    ("storage/services", "storage/postgresql"),
    ("storage/services", "storage/redis"),
    ("storage/services", "storage/embedded"),
)
"""Further arrows that must not be."""
ENTRIES_MAX = 20
"""At the top of a package."""
FILES_MAX = 16
"""In a folder."""


def place_of(module: str) -> tuple[str, str]:
    """Package, and the file or folder at its top."""
    package, _, rest = module.partition(".")
    return package, rest.partition(".")[0]


MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in SOURCES
    if "versions" not in file.parts
}


def modules_imported_by(file: Path) -> set[str]:
    """Modules of ours, also those imported as names of their package."""
    found = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return {module for module in found if module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_the_levels(module: str) -> None:
    package, place = place_of(module)
    levels = {name: level for level, names in enumerate(LEVELS[package]) for name in names}
    for imported in modules_imported_by(MODULES[module]):
        other, target = place_of(imported)
        if other != package or not target or target == place:
            continue
        ground = levels[place] == levels[target] == 0
        assert levels[target] < levels[place] or ground, f"{module} must not import {imported}"
        assert (f"{package}/{place}", f"{other}/{target}") not in NEVER, f"{module} -> {imported}"


def folder_of(module: str) -> str:
    """A file at the top of a package counts by itself."""
    return module if module.count(".") < 2 else module.rpartition(".")[0]


@pytest.mark.parametrize("name", [str, folder_of], ids=["files", "folders"])
def test_there_is_no_circle(name: Callable[[str], str]) -> None:
    arrows: dict[str, set[str]] = {}
    for module, file in MODULES.items():
        targets = {name(imported) for imported in modules_imported_by(file)}
        arrows.setdefault(name(module), set()).update(targets - {name(module)})
    TopologicalSorter(arrows).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("package", FOLDERS)
def test_a_folder_can_be_taken_in_at_a_glance(package: str) -> None:
    for folder in {file.parent for file in SOURCES if file.is_relative_to(ROOT / package)}:
        entries = [each for each in folder.iterdir() if each.name != "__pycache__"]
        assert len(entries) <= ENTRIES_MAX, folder
        assert sum(each.is_file() for each in entries) <= (
            ENTRIES_MAX if folder.parent == ROOT else FILES_MAX
        )


@pytest.mark.parametrize(
    "folder",
    sorted({file.parent for file in SOURCES} - {ROOT / "storage/database/migrations/versions"}),
    ids=name_of,
)
def test_a_folder_says_in_which_order_to_read_it(folder: Path) -> None:
    entries = {each.stem for each in folder.iterdir() if each.suffix in ("", ".py")}
    words = ast.get_docstring(tree_of(folder / "__init__.py")) or ""
    named = re.findall(r"`(\w+)`", words.partition("Reading order: ")[2])
    assert sorted(named) == sorted(entries - {"__init__", "__pycache__"})


def test_no_two_classes_have_one_name() -> None:
    names = Counter(
        node.name for file in SOURCES for node in tree_of(file).body if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_only_the_configuration_reads_the_environment() -> None:
    readers = set()
    for file in SOURCES:
        for node in ast.walk(tree_of(file)):
            read = isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")
            if read or (isinstance(node, ast.alias) and node.name in ("environ", "environb", "getenv")):
                readers.add(name_of(file))
    assert readers == {"server/config.py"}


@pytest.mark.parametrize("file", [*SOURCES, *TESTS, *OTHERS], ids=name_of)
def test_files_and_functions_stay_short(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= LINES_MAX
    if "migrations" in file.parts:
        return  # a migration is a list of tables
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 <= FUNCTION_LINES_MAX, node.name


def test_functions_are_short_as_a_rule() -> None:
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for file in SOURCES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[len(lengths) // 2] <= 12


@pytest.mark.parametrize("file", [*SOURCES, *TESTS, *OTHERS], ids=name_of)
def test_nothing_is_left_unfinished(file: Path) -> None:
    assert not UNFINISHED.search(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_every_module_says_what_it_is(file: Path) -> None:
    if file.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(tree_of(file))


@pytest.mark.parametrize("file", [*SOURCES, *TESTS], ids=name_of)
def test_there_are_no_mocks(file: Path) -> None:
    assert not any(name.startswith(("unittest", "mock")) for name in imported_by(tree_of(file)))


@pytest.mark.parametrize("file", [file for file in TESTS if file.name.startswith("test_")], ids=name_of)
def test_no_test_sleeps(file: Path) -> None:
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sleep":
            zero = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            assert zero, f"line {node.lineno}: wait for an event, with a deadline"


def test_every_file_with_tests_is_collected() -> None:
    for file in TESTS:
        functions = [
            node for node in tree_of(file).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        has_tests = any(node.name.startswith("test_") for node in functions)
        assert has_tests <= file.name.startswith("test_"), name_of(file)
        stages = {ROOT / "tests" / stage for stage in ("unit", "service", "drills")}
        assert file.parent in stages or not file.name.startswith("test_"), "the stage is the folder"


# --- Documents


def document(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_every_setting_is_in_the_operations_manual() -> None:
    text = document("operations.md")
    assert [s.variable for s in SETTINGS if f"`{s.variable}`" not in text] == []


def test_every_metric_is_in_the_operations_manual() -> None:
    text = document("operations.md")
    assert [name for name in (*GAUGES, *COUNTERS, *LABELLED) if name not in text] == []


def test_every_line_of_the_log_that_the_operations_manual_names_is_written() -> None:
    written = [
        node.value
        for file in SOURCES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    named = LOG_LINE.findall(document("operations.md"))
    assert len(named) > 5
    assert [line for line in named if not any(_beginning(line) in each for each in written)] == []


def _beginning(line: str) -> str:
    """Of what is logged, the words before those that differ each time."""
    return re.split(r" ?\.\.\.|: | N\b| \(", line)[0]


def test_every_route_is_in_the_api_manual() -> None:
    text = document("api.md")
    routes = {(route.method, route.path) for route in served_routes()}
    assert sorted(f"{method} {path}" for method, path in routes if f"`{method} {path}`" not in text) == []


def test_nothing_points_outside_the_project() -> None:
    for file in [*SOURCES, *TESTS, *OTHERS, *(ROOT / "docs").rglob("*.md")]:
        assert not re.search(r"(?<![\w.])/(home|root|work)/", file.read_text(encoding="utf-8")), name_of(file)


def test_every_file_that_documents_name_is_there() -> None:
    folders = "|".join((*FOLDERS, "tests", "benchmarks", "docs", "deploy"))
    for file in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = file.read_text(encoding="utf-8")
        for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", text):
            assert (ROOT / name).exists(), f"{name_of(file)} names {name}"
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (file.parent / link).exists(), f"{name_of(file)} links to {link}"


def test_every_place_that_documents_link_to_is_there() -> None:
    for file in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link, place in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", file.read_text(encoding="utf-8")):
            linked = (file.parent / link if link else file).read_text(encoding="utf-8")
            heads = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in HEAD.findall(linked)}
            assert place in heads, f"{name_of(file)} links to {link}#{place}"


@pytest.mark.parametrize(
    "file", [file for file in SOURCES if file.relative_to(ROOT).parts[0] == "pricing"], ids=name_of
)
def test_compiled_functions_call_only_those_of_their_own_module(file: Path) -> None:
    """What numba keeps on disk is not thrown away when another module changes."""
    tree = tree_of(file)
    compiled = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and {getattr(decorator, "id", "") for decorator in node.decorator_list} & {"compiled", "inlined"}
    ]
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pricing.")
        for alias in node.names
    }
    called = {
        node.func.id
        for function in compiled
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & ours


def test_nothing_lies_about_at_the_top() -> None:
    """A data directory or a download that was added with everything else."""
    ignored = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()}
    assert {entry.name for entry in ROOT.iterdir()} - ignored - {".git"} == TOP
