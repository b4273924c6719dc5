"""A program that uses dlnjax as others do: checked by pyright, strictly, against the wheel. It is never run."""
# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false

from typing import Any, assert_type

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import xarray
from jax import Array
from matplotlib.axes import Axes

import dlnjax as dln
from dlnjax import plot


class Quartic(eqx.Module):
    scale: Array

    def __call__(self, x: Array) -> Array:
        return self.scale * jnp.sum(x**4)


def flows() -> dln.FlowSolution:
    x0 = dln.gaussian(jax.random.key(0), 3, 0.1)
    energy = dln.FreeEnergy(dln.MatrixCompletion.diagonal(3), beta=2.0, depth=3)
    sol = dln.gradient_flow(energy, x0, depth=jnp.inf, ts=[0.0, 1.0], stop=dln.Steady(1e-4), solver=diffrax.Dopri5())
    assert_type(sol, dln.FlowSolution)
    assert_type(sol.effective_rank, Array)
    assert_type(dln.gradient_flow(Quartic(jnp.ones(())), dln.svd(x0), depth=2, ts=jnp.arange(3.0)).svd, dln.SVD)
    assert_type(sol[0], dln.FlowSolution)
    assert_type(sol.result == "steady", Any)
    saved: dln.FlowSolution = dln.load("flow.nc")
    return saved


def sweeps() -> xarray.Dataset:
    starts = dln.Ensemble(lambda key: dln.gaussian(key, 3, 0.1), jax.random.key(0), 10)
    assert_type(dln.sweep(dln.Schatten(2), starts, depth=[2.0] * 10, ts=(0.0, 1.0)), dln.FlowSolution)
    return dln.sweep(dln.SpectralEnergy(jnp.sin), starts, ts=[0.0, 1.0], folder="run")


def geometry(a: Array, b: Array) -> float:
    assert_type(dln.geodesic(a, b, 2), dln.GeodesicSolution)
    assert_type(dln.geodesics(a, b, jnp.inf), list[dln.GeodesicSolution])
    assert_type(dln.closed_form.bures_wasserstein(a, b)(0.5), Array)
    assert_type(dln.exponential(a, dln.logarithm(a, b, 3.0), 3.0).x, Array)
    return float(dln.distance(a, b, jnp.asarray(3.0)))


def network(x: Array) -> dln.Training:
    weights = dln.balanced_factors(x, 3)
    assert_type(dln.network_flow(dln.Schatten(2.0), weights, ts=[0.0, 1.0]).x, Array)
    chain = (jnp.ones((2, 3)), jnp.ones((4, 2)))
    assert_type(dln.product(chain), Array)
    assert_type(dln.sharpness(dln.imbalanced_factors(x, 1.0), dln.Schatten(2.0)), Array)
    dln.train(lambda x, y: jnp.sum((x - y) ** 2), chain, optax.sgd(1e-2), 10, batches=lambda step: step, stop=1e-3)
    return dln.train(dln.Schatten(2.0), weights, optax.sgd(1e-2), [0, 10])


def pictures(sol: dln.FlowSolution) -> Axes:
    with plot.style():
        return plot.singular_values(sol, ax=plot.effective_rank(sol.to_xarray()))
