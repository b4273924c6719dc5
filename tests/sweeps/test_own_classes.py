"""Sweeps of classes of one's own: in workers, in folders and for each seed they compute what they compute alone."""

import sys
import types
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.kernels import PowerLaw
from support.tolerances import ALGEBRA, assert_close

import dlnjax as dln

X0 = jnp.array([[0.5, 0.1], [-0.1, 0.4]])
TWO = jnp.stack([X0, 2 * X0])
TS = [0.0, 0.5]
ENERGY = dln.MatrixCompletion.diagonal(2)


def run(energy=ENERGY, starts=TWO, **options):
    return dln.sweep(energy, starts, ts=TS, progress=False, **({"depth": 2} | options))


def of_this_cell():
    """Classes as in a script or a notebook, which no worker can import."""

    class Fit(eqx.Module):
        label: jax.Array
        power: int = eqx.field(static=True, default=4)

        def __call__(self, x):
            return jnp.sum((x - self.label) ** self.power)

    class Power(PowerLaw):
        degree: float = eqx.field(static=True, default=1.0)

    return Fit(3.0 * jnp.eye(2), 2), Power(0.25)


def test_workers_keep_the_fields_of_classes_that_they_cannot_import(tmp_path):
    (energy, kernel), three = of_this_cell(), jnp.stack([X0, X0, 2 * X0])
    here = run(energy, three, depth=kernel)
    there = run(energy, three, depth=kernel, folder=tmp_path / "run", executor=1)
    np.testing.assert_array_equal(there.sigma.values, here.sigma)
    # The defaults of the classes give other numbers.
    assert not np.allclose(here.sigma, run(type(energy)(energy.label), three, depth=type(kernel)()).sigma)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module whose number was changed after its import."""
    text = "import jax.numpy as jnp\nTARGET = 1.0\ndef energy(x):\n    return jnp.sum((x - TARGET * jnp.eye(2)) ** 2)\n"
    (tmp_path / "of_a_user.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import of_a_user  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(of_a_user, "TARGET", 2.0)
    yield of_a_user
    del sys.modules["of_a_user"]


def test_worker_whose_module_has_another_number_says_so(module, tmp_path):
    with pytest.raises(RuntimeError, match="another call than its caller: the program of energy differ"):
        run(module.energy, folder=tmp_path / "run", executor=1)


def test_threads_that_stay_see_the_current_number_of_a_module(module, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        for target in (2.0, 5.0):
            module.TARGET = target
            there = run(module.energy, folder=tmp_path / str(target), executor=pool)
            np.testing.assert_array_equal(there.sigma.values, run(module.energy).sigma)


def test_threads_and_workers_draw_as_their_caller_does(tmp_path):
    noise, starts = (
        dln.Noise(jax.random.key(0), 5.0, 0.1),
        dln.Ensemble(lambda k: dln.gaussian(k, 2, 0.3), jax.random.key(1), 2),
    )
    with jax.threefry_partitionable(False):
        drawn = starts.take(jnp.arange(2))
        alone = dln.gradient_flow(
            ENERGY, drawn[1], depth=2, ts=TS, noise=dln.Noise(jax.random.fold_in(noise.key, 1), 5.0, 0.1)
        )
        here = run(starts=starts, noise=noise)
        there = run(starts=starts, noise=noise, folder=tmp_path / "run", executor=1)
    assert_close(here.sigma[1], alone.sigma, ALGEBRA)
    np.testing.assert_array_equal(there.sigma.values, here.sigma)
    assert not np.allclose(drawn, starts.take(jnp.arange(2)))


def solver_of(base, scale=None):
    """A solver of one's own of one name, with the step of `base`, or with its error times the `scale` of a module."""

    class Own(diffrax.AbstractERK):
        tableau = base.tableau
        interpolation_cls = base.interpolation_cls

        def order(self, terms):
            return base().order(terms)

    class Scaled(Own):
        def step(self, *arguments, **named):
            y1, error, *rest = super().step(*arguments, **named)
            return y1, jax.tree.map(lambda x: scale.factor * x, error), *rest

    return Own() if scale is None else Scaled()


def test_solver_of_ones_own_takes_its_own_steps_and_its_current_numbers():
    scale = types.SimpleNamespace(factor=1.0)
    solver = solver_of(diffrax.Tsit5, scale)
    steps = lambda solver: int(dln.gradient_flow(ENERGY, X0, ts=[0.0, 3.0], solver=solver).stats["steps"])
    assert steps(solver) == steps(diffrax.Tsit5())
    scale.factor = 1e6
    assert steps(solver) > 2 * steps(diffrax.Tsit5())


def test_folder_of_another_solver_or_of_axes_in_another_order_is_refused(tmp_path):
    run(folder=tmp_path / "a", solver=solver_of(diffrax.Dopri5))
    with pytest.raises(ValueError, match="belongs to another call: the program of solver differ"):
        run(folder=tmp_path / "a", solver=solver_of(diffrax.Bosh3))
    starts = dln.Ensemble(lambda key, std, mean: dln.gaussian(key, 2, std) + mean * jnp.eye(2), jax.random.key(0), 2)
    one, other = {"std": [0.1, 0.5], "mean": [0.2, 0.4]}, {"mean": [0.2, 0.4], "std": [0.1, 0.5]}
    run(starts=starts, grid=one, folder=tmp_path / "b")
    with pytest.raises(ValueError, match="belongs to another call: grid differ"):
        run(starts=starts, grid=other, folder=tmp_path / "b")


def test_unsigned_numbers_are_observed_into_a_folder(tmp_path):
    large = lambda point: jnp.sum(point.sigma > 0.45).astype(jnp.uint8)
    data = run(observe=large, folder=tmp_path / "run")
    np.testing.assert_array_equal(data.observed.values, run(observe=large).observed)


@jax.tree_util.register_pytree_node_class
class Registered:
    """A tree of which JAX knows no names."""

    def __init__(self, label):
        self.label = label

    def tree_flatten(self):
        return (self.label,), None

    @classmethod
    def tree_unflatten(cls, _, parts):
        return cls(*parts)

    def __call__(self, x):
        return jnp.sum((x - self.label) ** 2)


class Random(eqx.Module):
    key: jax.Array

    def __call__(self, x):
        return jnp.sum((x - jax.random.normal(self.key, (2, 2))) ** 2)


KEYS = jax.random.split(jax.random.key(3), 2)


@pytest.mark.parametrize(
    ("energies", "second"),
    [(Registered(jnp.stack([jnp.eye(2), 2 * X0])), Registered(2 * X0)), (Random(KEYS), Random(KEYS[1]))],
    ids=["a tree without names", "keys"],
)
def test_each_seed_has_its_part_of_any_tree(energies, second, tmp_path):
    energies = dln.PerSeed(energies)
    sol, data = run(energies), run(energies, folder=tmp_path / "run")
    assert_close(sol.sigma[1], dln.gradient_flow(second, TWO[1], depth=2, ts=TS).sigma, ALGEBRA)
    np.testing.assert_array_equal(data.sigma.values, sol.sigma)


class Named(eqx.Module):
    label: jax.Array
    shift: jax.Array
    array_axes: ClassVar = {"label": 2}

    def __call__(self, x):
        return jnp.sum((x - self.label - self.shift) ** 2)


def test_an_array_that_array_axes_does_not_name_may_belong_to_the_seeds():
    with pytest.raises(ValueError, match=r"as many as there are starts: shift \(2,\)"):
        run(Named(TWO, jnp.array([0.0, 0.5])))


def test_a_family_of_one_object_that_changes_is_refused():
    class Energy:
        def __call__(self, x):
            return jnp.sum((x - self.size) ** 2)

    one = Energy()

    def make(size):
        one.size = size
        return one

    with pytest.raises(ValueError, match="make must return another energy at each point"):
        run(dln.Family(make), grid={"size": [0.5, 2.0]})
