"""Without the other library, an adapter says what to install. This test runs in any environment."""

import importlib
import sys

import jax
import pytest

from dlnjax.adapters._shared import require_float64


@pytest.mark.parametrize(
    ("name", "needs"),
    [("pymanopt", "pymanopt.manifolds.manifold"), ("geomstats", "geomstats.geometry.riemannian_metric")],
)
def test_adapter_names_its_extra(name, needs, monkeypatch):
    monkeypatch.setitem(sys.modules, needs, None)
    monkeypatch.delitem(sys.modules, f"dlnjax.adapters.{name}", raising=False)
    with pytest.raises(ImportError, match=rf"pip install '\.\[{name}\]' in a copy"):
        importlib.import_module(f"dlnjax.adapters.{name}")


def test_float64_is_asked_for_in_the_name_of_the_library():
    require_float64("pymanopt")
    with jax.enable_x64(False), pytest.raises(RuntimeError, match=r"pymanopt works in float64\. Enable it first"):
        require_float64("pymanopt")
