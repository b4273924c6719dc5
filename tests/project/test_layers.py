"""The shape of the package: who may import whom, and what every public name owes its reader."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dlnjax

ROOT = Path(dlnjax.__file__).parent
GROUND = {
    "_types",
    "_checks",
    "_solver",
    "_versions",
    "_compile",
    "_custom_jvp",
    "_lapack",
    "_recorded",
    "_results",
    "_modes",
    "_runge_kutta",
    "_svd",
    "_tree",
    "_protocol",
    "_traced",
    "_scale",
    "_layers",
    "_noise",
    "_show",
    "_saved",
    "_loaded",
    "_terminal",
    "_formulas",
}
# Which packages each may import, besides the ground and itself.
MAY_IMPORT = {
    "_geometry": set(),
    "_energies": {"_geometry"},
    "_flows": {"_geometry"},
    "_geodesics": {"_geometry"},
    "_networks": set(),
    "_sweeps": {"_geometry", "_flows", "_networks", "_geodesics"},
    "closed_form": {"_geometry"},
    "plot": {"_geometry"},
    # The package itself, `dlnjax`, is the public face.
    "claims": {"dlnjax", "closed_form"},
    "adapters": {"dlnjax"},
    "figures": {"dlnjax", "closed_form", "plot", "claims"},
    "explore": {"dlnjax", "plot", "_sweeps"},
    "_commands": {"dlnjax", "_sweeps", "plot", "claims", "figures"},
    "_cli": {"dlnjax", "_commands", "figures"},
}
TOP = {"__init__", "__main__"}
# What an energy offers to a flow, which `_protocol.py` describes.
PROTOCOL = {"gradient", "pullback", "sides", "at"}
# The one import upwards, when it is called: the figure that a solution gives of itself.
UPWARDS = {("_show", "plot")}
MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


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


def test_every_module_belongs_to_a_package():
    assert {name_of(path).split(".")[0] for path in MODULES} == GROUND | set(MAY_IMPORT) | TOP


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_only_what_its_package_may(path):
    package = name_of(path).split(".")[0]
    if package in TOP:
        return
    allowed = GROUND if package in GROUND else GROUND | {package} | MAY_IMPORT[package]
    for imported in imports_of(path):
        top, _, inside = imported.partition(".")
        target = inside.split(".")[0] or "dlnjax"
        if top == "dlnjax" and (package, target) not in UPWARDS:
            assert target in allowed, f"{name_of(path)} imports {imported}, which {package} may not"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_is_short(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rules_of_derivatives_are_those_that_loops_keep(path):
    decorators = re.findall(r"^ *@.*\b(?:jax|eqx)\.(?:filter_)?custom_[jv]+p\b", path.read_text(), re.MULTILINE)
    assert decorators == [], "use the decorators of dlnjax._custom_jvp"


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
            if callable(member) and not attribute.startswith("_") and attribute not in PROTOCOL:
                # A method that implements one of a base class is documented there.
                assert inspect.getdoc(getattr(value, attribute)), f"{name}.{attribute} has no docstring"


def test_import_is_light():
    code = "import sys, dlnjax; print([m for m in ('matplotlib', 'xarray', 'rich', 'pandas') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert run.stdout.strip() == "[]"


def test_plot_is_imported_at_its_first_use():
    code = "import sys, dlnjax; assert 'plot' in dir(dlnjax); dlnjax.plot.style; print('matplotlib' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert run.stdout.strip() == "True"
    assert not hasattr(dlnjax, "plots")
