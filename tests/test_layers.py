"""The shape of the package: who may import whom, and what every public name owes its reader."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dlnjax

ROOT = Path(dlnjax.__file__).parent
LAYERS = [
    {"_types", "_checks", "_special", "_results", "_chebyshev", "_terminal", "_repr"},
    {"_kernel", "_differences", "_svd", "_spectrum", "_random"},
    {"_metric", "_network", "_store", "_solution", "_energy._protocol"},
    {"_energy"},
    {"_coordinates", "_methods", "_stabilised", "_integrate", "_problem", "_flow"},
    {"_hamiltonian", "_jacobi", "_paths", "_minimise", "_fibre", "_network_flow"},
    {"_shooting", "_exponential", "_connection", "_geodesic", "closed_form"},
    {"_call", "_chunks", "_sweep"},
    {"plot", "claims"},
    {"figures"},
    {"_commands", "_cli"},
]
TOP = {"__init__", "__main__"}
# The one import upwards, when it is called: the figure that a solution gives of itself.
UPWARDS = {("_repr", "dlnjax.plot")}
MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def layer_of(name):
    """The layer of the module, or of the nearest package that has one."""
    while name:
        for level, names in enumerate(LAYERS):
            if name in names:
                return level
        name = name.rpartition(".")[0]
    raise AssertionError("a module that has no layer: give it one in LAYERS")


def imports_of(path):
    """Every module that the file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                file = ROOT.parent / Path(*inside.split("."))
                yield inside if file.is_dir() or file.with_suffix(".py").exists() else node.module


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_only_from_its_layer_and_below(path):
    name = name_of(path)
    if name in TOP:
        return
    for imported in imports_of(path):
        package, _, inside = imported.partition(".")
        if package == "dlnjax" and (name, imported) not in UPWARDS:
            # The package itself is its public face, as high as the sweep.
            level = layer_of(inside or "_sweep")
            assert level <= layer_of(name), f"{name} imports {imported} from a layer above"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_is_short(path):
    assert len(path.read_text().splitlines()) <= 400


def test_matplotlib_is_imported_by_the_plots_and_figures_alone():
    for path in MODULES:
        if any(name.split(".")[0] == "matplotlib" for name in imports_of(path)):
            assert path.relative_to(ROOT).parts[0] in ("plot", "figures")


def test_every_public_name_has_a_docstring():
    public = {name: value for name, value in vars(dlnjax).items() if not name.startswith("_")}
    public = {name: value for name, value in public.items() if callable(value)}
    assert {"gradient_flow", "sweep", "SVD", "MatrixCompletion", "RESULTS"} <= set(public)
    for name, value in public.items():
        assert value.__doc__, f"{name} has no docstring"
        for attribute, member in vars(value).items() if isinstance(value, type) else ():
            if callable(member) and not attribute.startswith("_") and attribute not in ("gradient", "pullback"):
                assert member.__doc__, f"{name}.{attribute} has no docstring"


def test_import_is_light():
    code = "import sys, dlnjax; print([m for m in ('matplotlib', 'xarray', 'rich', 'pandas') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert run.stdout.strip() == "[]"
