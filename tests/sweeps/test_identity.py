"""A folder belongs to the call that began it, also where another call differs in code alone."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlnjax as dln

TS = [0.0, 0.5]
ENERGY = dln.MatrixCompletion.diagonal(2)
FIRST = np.array([[0.5, 0.1], [-0.1, 0.4]])
# The first start hides what the energies and functions of these calls differ in.
HIDING = {
    "a matrix that is symmetric": np.stack([0.3 * np.eye(2), FIRST]),
    "a matrix that is not there": np.stack([np.nan * FIRST, FIRST]),
}
TABLE = np.array([0.1, 0.2, 0.3])
DRAWN = dln.Ensemble(lambda key, k: dln.gaussian(key, 2, 1.0) * jnp.asarray(TABLE)[k], jax.random.key(0), 2)


def run(folder, energy=ENERGY, starts=HIDING["a matrix that is symmetric"], **options):
    return dln.sweep(energy, starts, ts=TS, depth=2, folder=folder, progress=False, **options)


@pytest.mark.parametrize("starts", HIDING.values(), ids=HIDING)
def test_folder_of_another_energy_is_refused(starts, tmp_path):
    of_entry = lambda i: lambda x: (x[i, i] - 1.0) ** 2
    run(tmp_path / "a", of_entry(0), starts)
    run(tmp_path / "a", of_entry(0), starts)
    with pytest.raises(ValueError, match="belongs to another call: the program of energy differ"):
        run(tmp_path / "a", of_entry(1), starts)


def test_folder_of_another_observe_is_refused(tmp_path):
    run(tmp_path / "a", observe=lambda point: point.matrix[0])
    with pytest.raises(ValueError, match="belongs to another call: the program of observe differ"):
        run(tmp_path / "a", observe=lambda point: point.matrix[:, 0])


def test_folder_of_other_starts_is_refused(tmp_path, monkeypatch):
    run(tmp_path / "a", starts=DRAWN, grid={"k": [0, 1, 2]})
    # The first and the last flow are drawn, and this is one between them.
    monkeypatch.setitem(globals(), "TABLE", np.array([0.1, 5.0, 0.3]))
    with pytest.raises(ValueError, match="belongs to another call: the program of init differ"):
        run(tmp_path / "a", starts=DRAWN, grid={"k": [0, 1, 2]})


def test_programs_of_another_version_of_jax_are_not_compared(tmp_path):
    run(tmp_path / "a", lambda x: jnp.sum((x - 1.0) ** 2))
    record = tmp_path / "a/call.json"
    call = json.loads(record.read_text())
    call["call"]["programs"] |= {"jax": "0.1", "energy": ["other"]}
    record.write_text(json.dumps(call))
    run(tmp_path / "a", lambda x: jnp.sum((x - 1.0) ** 2))
    with pytest.raises(ValueError, match="belongs to another call: energy at the first start differ"):
        run(tmp_path / "a", lambda x: jnp.sum((x - 2.0) ** 2))


# Everything whose text may follow from an address, or from the order of a set.
CALL = """
import json, jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
import dlnjax as dln
from dlnjax._sweeps.fingerprint import programs
from dlnjax._sweeps.grid import as_grid
from dlnjax._traced import Traced, traced_energy

class Mine(dln.Kernel):
    log_eigenvalue = lambda self, log_s, log_t: 0.5 * (log_s + log_t)
    leaving = lambda self, sigma: (sigma, sigma)
    straighten = lambda self, sigma: jnp.sqrt(sigma)
    unstraighten = lambda self, y: y**2

def energy(x):
    walk = jax.lax.scan(lambda c, y: (c + jnp.sin(y) @ y, c), 0.0, x)[0]
    return walk + dln.Schatten(3)(x) + jnp.linalg.norm(jnp.asarray([1.0, 2.0]) @ x)

def watch(point):
    total = jax.pure_callback(np.sum, jax.ShapeDtypeStruct((), float), point.sigma, vmap_method="sequential")
    return {"b": total, "a": dln.entropy(point.sigma, Mine())}

point = dln.svd(jnp.eye(2))
observe = Traced.of(watch, point)
starts = dln.Ensemble(lambda key: dln.gaussian(key, 2, 0.1), jax.random.key(0), 2)
kernel = dln.gradient_flow(dln.Schatten(2), jnp.eye(2), depth=Mine(), ts=[0.0, 0.1]).depth
traced = traced_energy(energy, (2, 2), jnp.float64, 2)
found = programs(traced, starts, as_grid(None, 2), observe, kernel)
"""


def test_programs_are_the_same_in_every_process():
    names = {}
    exec(CALL, names)
    env = os.environ | {"PYTHONHASHSEED": "7", "XLA_FLAGS": ""}
    child = [sys.executable, "-c", CALL + "print(json.dumps(found))"]
    said = subprocess.run(child, env=env, capture_output=True, text=True, check=True).stdout
    assert json.loads(said.splitlines()[-1]) == names["found"]
    assert len(names["found"]["energy"]) >= 2
