"""The house stands as README's table draws it: folders import only those listed above them, and nothing runs in a circle."""
import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinycogvlm"
README = (ROOT / "README.md").read_text(encoding="utf-8")
# From the lowest to the highest: each imports only those before it. loading.py puts a model together.
FLOORS = ("errors", "nn", "storage", "inputs", "model", "relatives", "contracts", "kernels", "world", "loading",
          "evaluate", "train", "verify", "learn", "serve", "captions", "cli")
FILES = [path.relative_to(ROOT) for path in sorted(PACKAGE.rglob("*.py"))]


@cache
def tree(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def module_of(path):
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imports(path, where=None):
    """The package's modules that a file imports, anywhere in it or only at its top level."""
    here = module_of(path).split(".")
    here = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(tree(path)) if where is None else where:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = here[:len(here) - node.level + 1] if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            for name in node.names:
                if f"{base}.{name.name}" in MODULES:
                    yield f"{base}.{name.name}"
                elif base in MODULES:
                    yield base


def floor(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None                     # None: tinycogvlm/__init__.py itself


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_downwards(path):
    """Lazy imports inside functions count as well. Only __init__.py and __main__.py stand above all floors."""
    here = floor(module_of(path))
    if path.parent == Path("tinycogvlm") and path.stem in ("__init__", "__main__"):
        return
    for module in imports(path):
        there = floor(module)
        assert there in FLOORS, f"{path} imports {module}, which has no floor"
        assert FLOORS.index(there) <= FLOORS.index(here), f"{path} imports {module}, which stands above it"


def test_no_module_imports_itself_in_a_circle():
    graph = {module: set(imports(path)) - {module} for module, path in MODULES.items()}
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module):], module])
        if module not in done:
            path.append(module)
            for other in sorted(graph[module]):
                visit(other)
            path.pop()
            done.add(module)
    for module in sorted(graph):
        visit(module)


def test_every_folder_and_file_has_a_floor():
    assert {floor(module) for module in MODULES} - {None, "__main__"} == set(FLOORS)


def test_the_readme_has_every_folder_from_the_ground_up():
    table = README.partition("## Read it")[2].partition("\n## ")[0]
    folders = [name for name in FLOORS if (PACKAGE / name).is_dir()]
    assert re.findall(r"^\| `(\w+)/`", table, re.MULTILINE) == folders


def test_no_name_shadows_its_module():
    """`tinycogvlm.model.vit` is the module vit, whatever the package's __init__ imports."""
    for module, path in MODULES.items():
        if path.name == "__init__.py":
            names = {alias.asname or alias.name for node in tree(path).body if isinstance(node, ast.ImportFrom)
                     for alias in node.names if f"{module}.{node.module}" in MODULES or node.module}
            shadowed = names & {other.rpartition(".")[2] for other in MODULES if other.rpartition(".")[0] == module}
            assert not shadowed, f"{path} imports {shadowed}, which hide modules of the same name"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_says_what_it_is(path):
    """And is written in the oldest Python that is supported."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"), feature_version=(3, 10))
    assert ast.get_docstring(tree) or path.name == "__main__.py"
