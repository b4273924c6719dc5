"""Geodesics between larger matrices, against closed forms, and the parts of their search against plain ones."""

import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from support.tolerances import ALGEBRA, assert_close, INTEGRATION

import dlnjax as dln
from dlnjax._geodesics import connection, guesses, shooting
from dlnjax._geodesics.aiming import aimed, Shot
from dlnjax._geodesics.charts import chart, point_of
from dlnjax._geodesics.mesh import DEGREE, ELEMENTS, Mesh
from dlnjax._geometry.differences import first_difference, squares, values
from dlnjax._geometry.motion import densities, moved, turned
from dlnjax._geometry.separable import Differences, Jet

# Above this size Broyden's method does not follow where the first search fails, so that the first search is tested.
LARGE = 16


@pytest.mark.parametrize("kernel", [dln.Balanced(3.0), dln.Balanced(jnp.inf), dln.Imbalanced((0.7, -0.3))], ids=repr)
@pytest.mark.parametrize("power", [1, 0.5])
def test_products_are_sums_over_divided_differences(key, kernel, power):
    # Two equal values, two that are near each other on each side of the threshold, and one that is far.
    sigma = jnp.array([2.0, 2.0, 1.995, 1.97, 1e-3])
    g, m = jax.random.normal(key, (2, 5, 5))
    s = squares(sigma)

    @jax.jit
    def both(s, g, m):
        ours, plain = Differences.of(s, Jet.of(s, kernel), power), first_difference(s, kernel, power)
        left, right = moved(m, sigma)
        turning = ours.turned(g, left) + ours.turned(g.T, right).T
        return (
            (ours.times[0], ours.density(g), ours.density(g.T), turning),
            (values(s, kernel, power), *densities(plain, g, g), turned(plain, g, left, right)),
        )

    for ours, plain in zip(*both(s, g, m), strict=True):
        assert_close(ours, plain, ALGEBRA)


def test_mesh_differentiates_and_integrates_polynomials_exactly():
    mesh = Mesh.of(jnp.array([0.0, 0.05, 0.2, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0]))
    points = mesh.gather(mesh.ts)
    assert_close(mesh.rates @ mesh.ts**DEGREE, DEGREE * points ** (DEGREE - 1), ALGEBRA)
    # Lobatto's quadrature with r + 1 nodes is exact to the degree 2 r - 1.
    assert_close(mesh.weights @ points ** (2 * DEGREE - 1), 1 / (2 * DEGREE), ALGEBRA)
    z = np.cos(np.arange(len(points)))
    assert_close(mesh.add_up(jnp.asarray(z)), np.bincount(Mesh.at(ELEMENTS), z), ALGEBRA)
    # The inverse of the second difference is Green's function at the ends of the elements, min(s, t) - s t.
    t = mesh.ts[DEGREE:-1:DEGREE]
    green = mesh.green[DEGREE - 1 :: DEGREE, DEGREE - 1 :: DEGREE]
    assert_close(green, jnp.minimum(t[:, None], t[None, :]) - jnp.outer(t, t), ALGEBRA)


def test_chart_has_an_inverse(key):
    x, c = jax.random.normal(key, (2, 3, 3))
    point, kernel, c = dln.svd(x), dln.Balanced(3.0), 0.1 * c.ravel()
    assert_close(chart(point_of(c, point, kernel), point, kernel)[0], c, ALGEBRA)


@pytest.mark.parametrize(
    "errors, lengths, shots, enough",
    [
        ((1e-12, 1e-12), (2.0, 1.0), (2, 2), True),
        ((1e-12, 1e-8), (1.0, 2.0), (2, 8), True),
        ((1e-12, 1e-8), (2.0, 1.0), (2, 8), False),
        ((1e-12, np.inf), (2.0, 0.0), (2, 0), True),
        ((1e-12, 1e-8), (1.0, 1.0 - 1e-8), (2, 8), True),
        ((1e-8, 1e-8), (1.0, 2.0), (8, 8), False),
    ],
    ids=["both arrive", "the shorter", "the longer", "the only one", "the same path", "none"],
)
def test_search_goes_on_from_a_geodesic_beside_a_shorter_one_that_missed(errors, lengths, shots, enough):
    none = Shot.none(jnp.eye(2))
    found = jax.tree.map(lambda z: jnp.stack([z, z]), none)
    start = jnp.asarray(lengths)[:, None, None] * jnp.diag(jnp.array([0.6, 0.8]))
    values = jnp.asarray(errors), start, jnp.asarray(shots)
    found = eqx.tree_at(lambda s: (s.error, s.start, s.shots), found, values)
    assert shooting.suffices(found) == enough


def test_results_stand_in_the_order_of_the_guesses(monkeypatch):
    kernel, first_guesses = dln.Balanced(jnp.inf), guesses.first_guesses
    # Ends whose guesses lead to two geodesics.
    x, y = jax.random.normal(jax.random.key(1), (2, 3, 3))
    y = y.at[0].multiply(jnp.sign(jnp.linalg.det(x) * jnp.linalg.det(y)))

    def lengths(x, y):
        ends = connection.Ends.of(x, y)
        frame = connection.Frame.of(ends.first, ends.last, kernel)
        found = aimed(frame.pair(ends), kernel, jnp.asarray(1e-9), every=jnp.asarray(True))
        return jnp.linalg.norm(found.start, axis=(1, 2)), found.error

    there, errors = jax.jit(lengths)(x, y)
    monkeypatch.setattr(guesses, "first_guesses", lambda *how: first_guesses(*how)[::-1])
    exchanged, _ = jax.jit(lambda x, y: lengths(x, y))(x, y)
    assert jnp.max(errors) < 1e-9 and there[0] < 0.9 * there[1]
    assert_close(exchanged[::-1], there, INTEGRATION)


@pytest.mark.long
def test_large_matrices_have_the_closed_forms(key):
    g = jax.random.normal(key, (2, LARGE, LARGE))
    depth, infinite = jnp.asarray(2.0), jnp.asarray(jnp.inf)
    a, b = (z @ z.T / LARGE + 0.1 * jnp.eye(LARGE) for z in g)
    root = sqrtm(np.asarray(a))
    squared = np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(root @ np.asarray(b) @ root)).real
    line = dln.geodesic(a, b, depth)
    # 1/N-normalised, the squared metric is 2 * 2 of that of Bures and Wasserstein.
    assert_close(line.length**2, 4 * squared, INTEGRATION)
    assert line.endpoint_error < 1e-11 and line.hamiltonian_drift < 1e-10
    # Positive definite matrices are totally geodesic, as fixed points of an isometry.
    assert_close(line.momentum, line.momentum.T, INTEGRATION)
    # The initial momentum is the geometric mean of A^{-1} and B, minus the identity, in the units of (3.15) doubled.
    inverse = np.linalg.inv(root)
    mean = inverse @ sqrtm(root @ np.asarray(b) @ root).real @ inverse
    assert_close(line.momentum, 2 * (mean - np.eye(LARGE)), INTEGRATION)
    # Ends with the same singular vectors.
    u, v = (jnp.linalg.qr(z)[0] for z in g)
    sigma = -jnp.sort(-jnp.exp(jax.random.normal(key, (2, LARGE))))
    one, other = ((u * s) @ v.T for s in sigma)
    assert_close(dln.geodesic(one, other, infinite).length, jnp.linalg.norm(jnp.log(sigma[0] / sigma[1])), INTEGRATION)
    # Ends in general position, there and back.
    x, y = g.at[1, 0].multiply(jnp.sign(jnp.prod(jnp.linalg.slogdet(g)[0])))
    there, back = dln.geodesic(x, y, infinite), dln.geodesic(y, x, infinite)
    assert there.endpoint_error < 1e-10
    assert_close(there.length, back.length, INTEGRATION)
    assert_close(there.end_momentum, -back.momentum, INTEGRATION)
    low, high = dln.distance_bounds(x, y, infinite)
    assert low <= there.length <= high


@pytest.mark.long
@pytest.mark.optimised
def test_geodesic_arrives_where_rounding_moves_the_path_of_least_action():
    rng, spectrum = np.random.default_rng(7), np.logspace(0, -2.75, LARGE)
    for _ in range(2):
        a, b = (
            jnp.asarray((u * spectrum) @ vt) for u, _, vt in map(np.linalg.svd, rng.standard_normal((2, LARGE, LARGE)))
        )
        b = b.at[0].multiply(jnp.sign(jnp.linalg.det(a) * jnp.linalg.det(b)))
        line = dln.geodesic(a, b, jnp.asarray(jnp.inf))
        assert line.endpoint_error < 1e-9 and line.hamiltonian_drift < 1e-9


@pytest.mark.long
@pytest.mark.optimised
@pytest.mark.parametrize("seed", [1, 3])
def test_geodesic_arrives_where_a_path_could_cross_the_singular_matrices_between_two_nodes(seed):
    # The usual mesh does not see how narrow the way is to a matrix with one small singular value.
    d = 9
    a, b = np.random.default_rng(seed).standard_normal((2, d, d))
    u, s, vt = np.linalg.svd(b)
    b = (u * np.append(s[:-1], s[0] / 3e3)) @ vt
    b[0] *= np.sign(np.linalg.det(a) * np.linalg.det(b))
    infinite = jnp.asarray(jnp.inf)
    line = dln.geodesic(jnp.asarray(a), jnp.asarray(b), infinite)
    assert line.endpoint_error < 1e-8
    low, high = dln.distance_bounds(jnp.asarray(a), jnp.asarray(b), infinite)
    assert low < line.length < high
    np.testing.assert_allclose(dln.exponential(jnp.asarray(a), line.momentum, infinite).x[-1], b, atol=1e-7)


# On two cores each of these programs hung for ever where LAPACK was called for two stacks of matrices at once.
STACKS = {
    "geodesic of 32 rows": "dln.geodesic(jnp.eye(32), 2 * jnp.eye(32), 2.0).length",
    "exponential": "jax.vmap(lambda x: dln.exponential(x, x - jnp.eye(10), 3, throw=False).x[-1])(stack(10))",
    "bounds": "jax.vmap(lambda x, y: dln.distance_bounds(x, y, 3)[1])(stack(20), stack(20).mT)",
    "closed form": "jax.jit(jax.vmap(lambda x: dln.closed_form.printed_line(x @ x.T, x.T @ x, 3)(0.3)))(stack(10))",
}


@pytest.mark.long
@pytest.mark.parametrize("call", STACKS)
def test_stacks_of_matrices_do_not_hang(call):
    code = f"""
import jax, jax.numpy as jnp, dlnjax as dln
jax.config.update("jax_enable_x64", True)
stack = lambda d: jnp.eye(d) + 0.1 * jax.random.normal(jax.random.key(0), (300, d, d)) / d**0.5
for _ in range(3):
    jax.block_until_ready({STACKS[call]})
"""
    # Two threads at the most, as on two cores.
    begin = "import os; os.environ['NPROC'] = '2'; "
    subprocess.run([sys.executable, "-c", begin + code], cwd=Path(__file__).parents[2], check=True, timeout=300)
