"""What the pages for developers say of the code: the picture, the walk, the table of layers."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import jax
import pytest
from project.test_layers import GROUND, imports_of, MAY_IMPORT, MODULES, name_of

import dlnjax as dln

ROOT = Path(__file__).parents[2]
LAYOUT = (ROOT / "docs" / "develop" / "layout.md").read_text(encoding="utf-8")
STEP = re.compile(r"^\d+\. `([\w/]+\.py)`, `([\w.]+)`:", re.MULTILINE)


@pytest.fixture(scope="module")
def packages():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import packages
    finally:
        sys.path.pop(0)
    return packages


def test_every_arrow_of_the_picture_is_an_import(packages):
    shown = lambda name: "dlnjax" if name in ("", "__init__") else "_cli" if name == "__main__" else name
    ground = lambda name: "ground" if name in GROUND else name
    found = {}
    for path in MODULES:
        package = ground(shown(name_of(path).split(".")[0]))
        names = (name.split(".") for name in imports_of(path))
        targets = {ground(shown(name[1] if len(name) > 1 else "")) for name in names if name[0] == "dlnjax"}
        found.setdefault(package, set()).update(targets - {package})
    assert packages.arrows() == found
    svg = ElementTree.fromstring(packages.picture())
    drawn = [element for element in svg if element.tag.endswith("path")]
    assert len(drawn) == len(packages.drawn(found)) > 10
    assert packages.table().count("\n| ") == len(found) - 1 + len(GROUND) - 1 + 1


def test_chains_are_left_out_and_arrows_up_are_kept(packages):
    found = {name: set() for name in packages.PLACES}
    found |= {"_cli": {"dlnjax", "_flows"}, "dlnjax": {"_flows", "ground"}, "_flows": {"ground", "_sweeps"}}
    assert packages.drawn(found) == {("_cli", "dlnjax"), ("dlnjax", "_flows"), ("_flows", "_sweeps")}


def test_a_package_without_a_place_ends_the_build(packages, monkeypatch):
    monkeypatch.setattr(packages, "PLACES", {k: v for k, v in packages.PLACES.items() if k != "_flows"})
    with pytest.raises(AssertionError, match="_flows"):
        packages.picture()


def test_table_of_layers_is_that_of_the_test():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Layers")[1].split("## Tests")[0]
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    named = [(set(re.findall(r"`(\w+)`", left)), set(re.findall(r"`(\w+)`", right))) for left, right in rows]
    assert {package: may for left, may in named for package in left} == MAY_IMPORT
    assert (
        set(re.findall(r"`(\w+)`", text.split("(`_types`")[0] + "`_types`" + text.split("(`_types`")[1].split(")")[0]))
        == GROUND
    )


@pytest.mark.long
def test_walk_names_what_a_flow_calls_in_the_order_in_which_it_does(key):
    steps, calls, root = STEP.findall(LAYOUT), [], str(ROOT / "dlnjax") + "/"

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(root):
            calls.append((code.co_filename.removeprefix(root), code.co_qualname))

    # What another test has traced would not be called again.
    jax.clear_caches()
    x0 = dln.gaussian(key, 6, 0.5)
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        dln.gradient_flow(dln.MatrixCompletion.diagonal(6), x0, depth=3, ts=[0.0, 1.0, 300.0])
    finally:
        sys.setprofile(before)
    assert len(steps) > 10
    assert [step for step in steps if step not in calls] == []
    places = [calls.index(step) for step in steps]
    assert places == sorted(places)
