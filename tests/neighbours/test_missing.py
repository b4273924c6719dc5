"""Without the other library, an adapter says what to install. This test runs in any environment."""

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "needs"),
    [("pymanopt", "pymanopt.manifolds.manifold"), ("geomstats", "geomstats.geometry.riemannian_metric")],
)
def test_adapter_names_its_extra(name, needs, monkeypatch):
    monkeypatch.setitem(sys.modules, needs, None)
    monkeypatch.delitem(sys.modules, f"dlnjax.adapters.{name}", raising=False)
    with pytest.raises(ImportError, match=rf'pip install "dlnjax\[{name}\]"'):
        importlib.import_module(f"dlnjax.adapters.{name}")
