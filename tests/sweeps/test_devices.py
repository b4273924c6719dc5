"""The same sweep on several devices, which XLA can pretend to have."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from support.tolerances import assert_close

import dlnjax as dln
from dlnjax._sweeps import plan

N, D, TS = 11, 3, [0.0, 0.5, 4.0]
NAMES = ("sigma", "x", "energy", "t_end")
SCRIPT = """
import sys
import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]
import numpy as np
import test_devices as this

devices = jax.devices()
assert len(devices) == 3 and {d.platform for d in devices} == {"cpu"}
many, one = (this.arrays(this.run(devices=d)) for d in (None, devices[:1]))
np.savez(sys.argv[2], **{f"many_{k}": v for k, v in many.items()}, **{f"one_{k}": v for k, v in one.items()})
"""


def run(**options):
    starts = np.eye(D) + 0.4 * np.random.default_rng(5).standard_normal((N, D, D))
    starts[4, 1, 2] = np.nan
    energy = dln.MatrixCompletion.diagonal(D)
    return dln.sweep(energy, jnp.asarray(starts), ts=TS, depth=3.0, progress=False, **options)


def arrays(solution):
    return {name: np.asarray(getattr(solution, name)) for name in NAMES} | {"code": solution.to_numpy()["result"]}


@pytest.mark.long
def test_three_devices_one_device_and_another_process_agree(tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=3"
    child = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path / "child.npz")],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    here = arrays(run())
    assert here["code"].tolist() == ["non_finite" if i == 4 else "successful" for i in range(N)]
    with np.load(tmp_path / "child.npz") as there:
        for name, expected in here.items():
            many, one = there[f"many_{name}"], there[f"one_{name}"]
            if name == "code":
                assert many.tolist() == one.tolist() == expected.tolist()
            else:
                good = np.arange(N) != 4
                assert many.shape == expected.shape
                assert_close(many[good], expected[good], 1e-9)
                assert_close(many[good], one[good], 1e-9)
                assert np.all(np.isnan(many[4])) == np.all(np.isnan(expected[4]))


@pytest.mark.parametrize("d", [2, 5, 25, 50])
@pytest.mark.parametrize("cards", [1, 4])
def test_a_gpu_has_a_queue_of_flows_where_they_are_many(d, cards):
    # The planner asks a device for its platform alone.
    devices = (SimpleNamespace(platform="gpu"),) * cards
    chunk = plan.chunk_size(10**7, d, 1, devices, plan.per_seed(2, d, True))
    rows = -(-chunk // cards)
    lanes = plan.lane_count(devices[0], rows, d, 10**7)
    assert rows * d**2 <= 2**24 and 4 * lanes <= rows <= 2**19 and lanes * d**2 <= 2**21
    assert plan.chunk_size(1000, 5, 1, devices, plan.per_seed(2, 5, True)) == 1000
    assert [plan.lane_count(devices[0], n, 5, n) for n in (1000, 100_000)] == [1000, 100_000]


def test_a_cpu_has_a_queue_of_flows_where_they_are_many_or_large():
    lanes = functools.partial(plan.lane_count, SimpleNamespace(platform="cpu"))
    # The chunks are of the same size, and the sweeps of 1,000 and of a million seeds.
    assert [lanes(256, 5, n) for n in (1000, 10**6)] == [256, 32]
    assert [lanes(256, d, 256) for d in (2, 5, 10, 25, 50, 400)] == [256, 256, 32, 8, 2, 2]
    assert lanes(1, 400, 1) == 1


@pytest.fixture
def as_users_have_it():
    """Without the annotation checks, which would refuse some of these before the library does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("devices", ["cpu", [], [0], 3, [None], ["cpu:0"], {"cpu": 0}])
def test_what_is_no_list_of_devices_is_refused(devices):
    with pytest.raises(TypeError, match=r"devices must be a list of .*jax\.devices\(\), got"):
        run(devices=devices)
