"""Geodesics and distances against closed forms, independent code, and the symmetries of the metric."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.optimize import minimize
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE, INTEGRATION

import dlnjax as dln
from dlnjax._geodesics import shooting
from dlnjax._geodesics.aiming import flaw
from dlnjax._geodesics.charts import Pair
from dlnjax._geodesics.connection import connect
from dlnjax._geodesics.geodesic import index_of
from dlnjax._geodesics.hamiltonian import Path
from dlnjax._svd import SVD, svd

D = 2
DEPTHS = [1.0, 2.0, 3.0, 8.0, np.inf]
EYE = jnp.eye(D)
SKEW = jnp.diag(jnp.array([4.0, 1.0])), jnp.array([[2.5, 1.5], [1.5, 2.5]])
SWAP = jnp.diag(jnp.array([np.exp(6.0), 1.0])), jnp.diag(jnp.array([1.0, np.exp(6.0)]))


def geodesic(a, b, depth, **options):
    """An array of the depth, so that all depths share one compilation."""
    return dln.geodesic(jnp.asarray(a), jnp.asarray(b), jnp.asarray(depth), **options)


def distance(a, b, depth):
    return geodesic(a, b, depth).length


def rotation(angle):
    return jnp.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.fixture
def pair(key):
    return draw(key)


def draw(key):
    a, b = jax.random.normal(key, (2, D, D))
    return a, b.at[0].multiply(jnp.sign(jnp.linalg.det(a) * jnp.linalg.det(b)))


def bures_wasserstein_squared(a, b):
    root = sqrtm(a)
    return np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(root @ b @ root)).real


def test_depth_two_is_bures_wasserstein(key):
    g = jax.random.normal(key, (2, D, D))
    a, b = (z @ z.T + 0.1 * EYE for z in g)
    # 1/N-normalised, the squared metric is 2 * 2 of theirs.
    assert_close(distance(a, b, 2.0) ** 2, 4 * bures_wasserstein_squared(np.asarray(a), np.asarray(b)), INTEGRATION)
    curve = dln.closed_form.bures_wasserstein(a, b)
    t = jnp.array([0.3, 1.0, 0.0])
    assert_close(geodesic(a, b, 2.0).evaluate(t), curve(t), INTEGRATION)
    # (3.15).
    ab = sqrtm(a @ b)
    assert_close(curve(0.3), 0.49 * a + 0.09 * b + 0.21 * (ab + ab.T), INTEGRATION)


def test_values_of_geomstats():
    assert_close(dln.exponential(EYE, 2 * EYE, 2.0).x[-1], 4 * EYE, INTEGRATION)
    assert_close(geodesic(EYE, 4 * EYE, 2.0).momentum, 2 * EYE, INTEGRATION)
    assert_close(distance(EYE, 2 * EYE, 2.0) ** 2 / 4, 6 - 4 * np.sqrt(2), INTEGRATION)


@pytest.mark.parametrize("depth", [2.0, 3.0, 8.0, np.inf])
def test_commuting_ends_have_the_closed_form(key, depth):
    ku, kv, ks = jax.random.split(key, 3)
    u, v = (jnp.linalg.qr(jax.random.normal(k, (D, D)))[0] for k in (ku, kv))
    # Ordered alike, so that it is the shortest.
    sigma = jnp.sort(jnp.exp(jax.random.normal(ks, (2, D))))
    a, b = ((u * s) @ v.T for s in sigma)
    flat = jnp.log(sigma) if depth == np.inf else depth * sigma ** (1 / depth)
    found = geodesic(a, b, depth)
    assert_close(found.length, jnp.linalg.norm(flat[0] - flat[1]), INTEGRATION)
    t = jnp.linspace(0, 1, 5)
    assert_close(found.evaluate(t), dln.closed_form.commuting(a, b, depth)(t), INTEGRATION)
    mixed = (1 - t[:, None]) * flat[0] + t[:, None] * flat[1]
    expected = jnp.exp(mixed) if depth == np.inf else (mixed / depth) ** depth
    assert_close(dln.closed_form.commuting(a, b, depth)(t), (u * expected[:, None]) @ v.T, ALGEBRA)
    low, high = dln.distance_bounds(a, b, depth)
    assert_close(jnp.stack([low, high]), found.length, INTEGRATION)


def test_depth_one_is_flat(pair):
    a, b = pair
    found = geodesic(a, b, 1.0)
    assert_close(found.length, jnp.linalg.norm(b - a), INTEGRATION)
    assert_close(found.evaluate(0.25), 0.75 * a + 0.25 * b, INTEGRATION)


def least_action(a, b, depth, segments):
    """The length of the path of least action in discrete time, extrapolated from two step sizes, with none of the
    library's code: the kernel is the mean over the layers, or a quadrature of it."""
    if depth == np.inf:
        nodes, weights = np.polynomial.legendre.leggauss(12)
        power, weight, top = (nodes + 1) / 2, weights / 2, 2.0
    else:
        power, weight, top = np.arange(depth) / (depth - 1), np.full(depth, 1 / depth), 2 - 2 / depth

    def minimum(k):
        t = np.linspace(0, 1, k + 1)[1:-1, None, None]

        def action(z):
            x = np.concatenate([a[None], z.reshape(-1, D, D), b[None]])
            u, s, vt = np.linalg.svd((x[1:] + x[:-1]) / 2)
            s = s[..., None]
            lam = s[:, :, None] ** (top * (1 - power)) * s[:, None, :] ** (top * power) @ weight
            steps = np.swapaxes(u, 1, 2) @ np.diff(x, axis=0) @ np.swapaxes(vt, 1, 2)
            return k * np.sum(steps**2 / lam)

        start = (1 - t) * a + t * b
        return np.sqrt(minimize(action, start.ravel(), method="BFGS", options={"gtol": 1e-6}).fun)

    return (4 * minimum(segments) - minimum(segments // 2)) / 3


@pytest.mark.parametrize("depth", [2, 3, np.inf])
def test_length_is_that_of_least_action_by_other_means(depth):
    a, b = map(np.asarray, SKEW)
    assert abs(least_action(a, b, depth, 16) - distance(a, b, depth)) < 1e-4


def test_printed_line_is_no_geodesic():
    a, b = SKEW
    found = geodesic(a, b, 2.0)
    assert_close(found.length / np.sqrt(2), np.sqrt(20 - 2 * np.sqrt(82)), INTEGRATION)
    assert abs(found.length / np.sqrt(2) - 1.374493) < 1e-6
    line = dln.closed_form.printed_line(a, b, 2.0)
    t = (np.arange(200) + 0.5) / 200
    speed = jax.vmap(lambda t: dln.norm(*jax.jvp(line, (t,), (1.0,)), 2.0))(t)
    assert abs(jnp.mean(speed) / np.sqrt(2) - 1.377145) < 1e-5
    assert_close(line(0.5), [[3.125, 0.75], [0.75, 1.625]], ALGEBRA)


@pytest.mark.parametrize("d", [2, pytest.param(3, marks=pytest.mark.long), pytest.param(4, marks=pytest.mark.long)])
def test_near_a_turn_by_pi_goes_the_shorter_way(d):
    # At infinite depth rotations of the identity are as long as the rate of their rotation.
    for off in (1e-3, 1e-4, 1e-6, 0.0):
        for angle in (np.pi - off, off - np.pi):
            turn = np.eye(d)
            turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            line = geodesic(np.eye(d), turn, np.inf)
            assert_close(line.length, np.sqrt(2) * (np.pi - off), INTEGRATION)
            if off:
                # The other end moves on along the rotation.
                expected = np.zeros((d, d))
                expected[:2, :2] = np.sign(angle) * np.array([[0, -1], [1, 0]]) / np.sqrt(2)
                assert_close(line.end_momentum / line.length, expected @ turn, INTEGRATION)


@pytest.mark.long
def test_search_goes_on_beyond_a_conjugate_point():
    found = dln.geodesics(*SWAP, np.inf)
    assert_close(found[0].length, geodesic(*SWAP, np.inf).length, INTEGRATION)
    assert abs(found[0].length - 7.3621) < 1e-4 and int(found[0].index) == 0 and found[0].conjugate_time == np.inf
    diagonal = next(one for one in found if abs(one.length - 6 * np.sqrt(2)) < 1e-6)
    assert int(diagonal.index) == 1
    # Along it the ratio of the singular values at conjugate times is that of claims: diag(r, 1) to diag(1, r) is one
    # at r = 35.6, where the conjugate time is 1.
    assert 0 < diagonal.conjugate_time < 1
    edge = lambda r: dln.exponential(
        jnp.diag(jnp.array([r, 1.0])), jnp.diag(jnp.array([-np.log(r) / r, np.log(r)])), jnp.asarray(np.inf)
    )
    assert_close(edge(35.6).x[-1], np.diag([1.0, 35.6]), INTEGRATION)
    swapped = lambda r: (jnp.diag(jnp.array([r, 1.0])), jnp.diag(jnp.array([1.0, r])))
    assert geodesic(*swapped(35.0), np.inf).conjugate_time == np.inf
    assert dln.geodesics(*swapped(37.0), np.inf)[-1].conjugate_time < 1


def test_swap_is_shorter_by_turning_alone():
    found = geodesic(*SWAP, np.inf)
    low, high = dln.distance_bounds(*SWAP, np.inf)
    assert low <= found.length <= high


@pytest.mark.parametrize("depth", DEPTHS)
def test_distance_is_a_metric_and_its_isometries(key, depth):
    a, b = draw(key)
    c = jax.random.normal(jax.random.fold_in(key, 1), (D, D))
    c = c.at[0].multiply(jnp.sign(jnp.linalg.det(a) * jnp.linalg.det(c)))
    ab, bc, ac = distance(a, b, depth), distance(b, c, depth), distance(a, c, depth)
    assert_close(distance(b, a, depth), ab, INTEGRATION)
    assert ac <= ab + bc and ab <= ac + bc and bc <= ab + ac
    turn = lambda x: rotation(0.7) @ x @ rotation(2.1)
    assert_close(distance(turn(a), turn(b), depth), ab, INTEGRATION)
    assert_close(distance(a.T, b.T, depth), ab, INTEGRATION)
    # Homogeneous of degree 1/N.
    assert_close(distance(3 * a, 3 * b, depth), 3 ** (1 / depth) * ab, INTEGRATION)
    low, high = dln.distance_bounds(a, b, depth)
    assert low <= ab <= high


def test_inversion_is_an_isometry_at_infinite_depth_alone(pair):
    a, b = pair
    inverse = jnp.linalg.inv
    assert_close(distance(inverse(a), inverse(b), np.inf), distance(a, b, np.inf), INTEGRATION)
    assert abs(distance(inverse(a), inverse(b), 3.0) - distance(a, b, 3.0)) > 1e-3


def test_equal_ends_have_distance_zero_and_its_square_no_gradient(pair):
    a, _ = pair
    square = lambda a, b: dln.distance(a, b, jnp.asarray(3.0)) ** 2
    value, (da, db) = jax.value_and_grad(square, (0, 1))(a, a)
    assert value == 0.0 and jnp.all(da == 0) and jnp.all(db == 0)
    near = geodesic(a, a * (1 + 1e-14), 3.0)
    assert near.endpoint_error < 1e-14 and near.length < 1e-12


def test_ends_that_are_equal_to_rounding_arrive(key):
    for k in jax.random.split(key, 4):
        left, right, near = jax.random.normal(k, (3, D, D))
        a = jnp.linalg.qr(left)[0] @ jnp.diag(jnp.array([1.0, 5e-4])) @ jnp.linalg.qr(right)[0]
        line = geodesic(a, a + 3e-16 * near, 3.0)
        assert line.endpoint_error < 1e-12 and line.length < 1e-10


@pytest.mark.parametrize("d", [D, pytest.param(5, marks=pytest.mark.long)])
def test_distance_of_near_ends_has_all_its_digits(key, d):
    x, z = jax.random.normal(key, (2, d, d))
    for scale, size in itertools.product((-500, 0, 500), (1e-7, 1e-10, 1e-13)):
        a, b = jnp.ldexp(x, scale), jnp.ldexp(x + size * z, scale)
        # Their difference is exact in floating point. The metric at the midpoint is that of the path, but for size^2.
        middle, between = a + (b - a) / 2, b - a
        line = geodesic(a, b, 3.0)
        assert_close(line.length / dln.norm(middle, between, 3.0), 1.0, ALGEBRA)
        p = dln.metric_operator_inverse(middle, between, 3.0)
        size = jnp.max(jnp.abs(p))
        assert_close((line.momentum + line.end_momentum) / 2 / size, p / size, ALGEBRA)


@pytest.mark.long
@pytest.mark.parametrize("number, depth, size", [(37, 3.0, 1e-12), (53, 2.0, 1e-10)])
def test_end_is_reached_in_the_metric_and_not_only_in_its_large_entries(number, depth, size):
    a, b = np.random.default_rng(3).standard_normal((60, 2, D, D))[number]
    b[0] *= np.sign(np.linalg.det(a) * np.linalg.det(b))
    beside_one = lambda x: np.block([[np.ones((1, 1)), np.zeros((1, D))], [np.zeros((D, 1)), size * x]])
    # Matrices of one block form are totally geodesic, as fixed points of an isometry. Lengths have the degree 1/N.
    line = geodesic(beside_one(a), beside_one(b), depth)
    assert_close(line.length / size ** (1 / depth), distance(a, b, depth), INTEGRATION)


def test_error_counts_small_singular_values_but_not_rounding():
    kernel, eye = dln.Balanced(jnp.asarray(3.0)), jnp.eye(D)
    first, last = (SVD(eye, jnp.array([1.0, small]), eye) for small in (1e-9, 2e-9))
    pair = Pair.of(first, last, last.matrix - first.matrix)
    errors = []
    for wrong in (1e-9, 1e-17):
        y = pair.goal.at[1, 1].add(wrong)
        errors.append(pair.error(y, pair.miss(y, kernel), jnp.asarray(1e-3), kernel))
    assert errors[0] > 1e-3 and errors[1] < 1e-16


def test_distance_has_the_gradient_of_the_first_variation(pair):
    a, b = pair
    point = (a, b, jnp.asarray(3.0))
    e, f = jnp.array([[0.3, -1.0], [0.5, 0.2]]), jnp.array([[-0.4, 0.1], [1.0, 0.6]])
    found = geodesic(*point)
    h = 1e-5
    for moved in [(e, 0 * f, 0.0), (0 * e, f, 0.0), (e, f, 1.0)]:
        ahead, behind = (distance(*(z + s * h * m for z, m in zip(point, moved, strict=True))) for s in (1, -1))
        grad = jax.grad(dln.distance, (0, 1, 2))(*point)
        slope = sum(jnp.sum(g * m) for g, m in zip(grad, moved, strict=True))
        assert_close(slope, (ahead - behind) / (2 * h), FINITE_DIFFERENCE)
    assert_close(grad[1], found.end_momentum / found.length, INTEGRATION)
    tangent = jax.jvp(lambda a, b: dln.logarithm(a, b, point[2]), (a, b), (e, f))[1]
    ahead, behind = (geodesic(a + s * h * e, b + s * h * f, 3.0).momentum for s in (1, -1))
    assert_close(tangent, (ahead - behind) / (2 * h), FINITE_DIFFERENCE)


@pytest.mark.long
@pytest.mark.optimised
def test_ill_conditioned_pairs_arrive():
    rng = np.random.default_rng(0)
    for depth in (2.0, 3.0, np.inf):
        for _ in range(4):
            a, b = ((u * [1.0, 1e-6]) @ vt for u, _, vt in map(np.linalg.svd, rng.standard_normal((2, D, D))))
            b[0] *= np.sign(np.linalg.det(a) * np.linalg.det(b))
            there, back = geodesic(a, b, depth), geodesic(b, a, depth)
            # Rounding is multiplied by the condition number, and depends on the options of XLA.
            assert there.endpoint_error < 1e-9
            assert_close(there.length, back.length, INTEGRATION)


@pytest.mark.long
def test_a_pair_arrives_whose_targets_must_be_hit_well():
    # Its ends are so near the singular matrices that targets hit to 1e-3 alone do not say where the next one is.
    a = jnp.diag(jnp.array([1.0, 1e-6]))
    b = rotation(np.radians(-1.2361627509)) @ a @ rotation(np.radians(-154.5046419975))
    there, back = geodesic(a, b, 2.0), geodesic(b, a, 2.0)
    assert there.endpoint_error < 1e-9
    assert_close(there.length, back.length, INTEGRATION)
    low, high = dln.distance_bounds(a, b, 2.0)
    assert low <= there.length <= high


@pytest.mark.long
def test_a_pair_arrives_by_the_way_on_which_the_powers_differ():
    rng = np.random.default_rng([0, 1, 3, 333])
    for _ in range(4):
        a, b = ((u * [1.0, 1e-3, 1e-6]) @ vt for u, _, vt in map(np.linalg.svd, rng.standard_normal((2, 3, 3))))
        b[0] *= np.sign(np.linalg.det(a) * np.linalg.det(b))
    there, back = geodesic(a, b, 3.0), geodesic(b, a, 3.0)
    assert there.endpoint_error < 1e-9
    assert_close(there.length, back.length, INTEGRATION)


@pytest.mark.long
def test_a_search_goes_on_from_a_geodesic_that_cannot_be_the_shortest():
    # The first geodesic that is found between these ends has the length 20.3, and a path in closed form 19.3.
    rng = np.random.default_rng([1, 1, 2, 0])
    for _ in range(43):
        a, b = ((u * [1.0, 1e-6]) @ vt for u, _, vt in map(np.linalg.svd, rng.standard_normal((2, D, D))))
    b[0] *= np.sign(np.linalg.det(a) * np.linalg.det(b))
    line = geodesic(a, b, np.inf)
    assert line.length <= dln.distance_bounds(line.a, line.b, np.inf)[1]
    # Its frames turn too fast for a mesh, which counts dozens of negative eigenvalues.
    assert jnp.isinf(line.conjugate_time) and line.index == 0


def test_a_search_that_fails_says_why_and_how_far_it_came():
    # At depth 2 and the condition number 1e10 the last shot of this pair reaches the singular matrices.
    rng = np.random.default_rng(5)
    for _ in range(3):
        a, b = ((u * [1.0, 1e-10]) @ vt for u, _, vt in map(np.linalg.svd, rng.standard_normal((2, D, D))))
    b[0] *= np.sign(np.linalg.det(a) * np.linalg.det(b))
    lost = geodesic(a, b, 2.0, throw=False)
    assert lost.result == "rank_lost" and jnp.isinf(lost.endpoint_error) and 0 < lost.stats["power"] < 1
    for search in (geodesic, dln.geodesics):
        with pytest.raises(RuntimeError, match="search for a geodesic ends so"):
            search(jnp.asarray(a), jnp.asarray(b), 2.0)
    assert geodesic(EYE, 2 * EYE, 2.0).stats["power"] == 1


@pytest.mark.parametrize("name", ["successful", "rank_lost", "shot_too_long", "not_arrived"])
def test_flaw_of_a_shot(name):
    no = jnp.asarray(False)
    way = Path((), jnp.ones(()), no | (name == "rank_lost"), no, no | (name == "shot_too_long"), jnp.asarray(1))
    assert flaw(way, no | (name == "successful")) == name


@pytest.mark.long
def test_a_shot_with_too_many_steps_and_a_search_with_too_many_shots_say_so(monkeypatch):
    a, b = (SVD(z.u, jnp.array([1.0, 1e-6]), z.v) for z in map(svd, (rotation(1.0), SKEW[1])))
    ends = Pair.of(a, b, b.matrix - a.matrix)
    search = lambda: shooting._shot(ends, dln.Balanced(jnp.asarray(np.inf)), jnp.asarray(1e-11), jnp.asarray(True))
    for name, least in (("MOST_STEPS", 20), ("_MOST_SHOTS", 4)):
        with monkeypatch.context() as patch:
            patch.setattr(shooting, name, least)
            found = search()
        assert not jnp.any(found.error < 1e-8)
        assert found.code[0] == {"MOST_STEPS": "shot_too_long", "_MOST_SHOTS": "max_shots_reached"}[name]


@pytest.mark.long
def test_all_pairs_are_one_call(key):
    x = jax.random.normal(key, (8, D, D))
    x = x.at[:, 0].multiply(jnp.sign(jnp.linalg.det(x))[:, None])
    row = jax.vmap(lambda a, b: dln.distance(a, b, jnp.asarray(np.inf)), (None, 0))
    found = jax.vmap(row, (0, None))(x, x)
    assert jnp.all(jnp.isfinite(found)) and jnp.all(jnp.diagonal(found) == 0)
    assert_close(found, found.T, INTEGRATION)
    # Inside of `vmap` small matrices have another search than outside.
    assert_close(found[3], [distance(x[3], y, np.inf) for y in x], INTEGRATION)


def test_what_does_not_fit_is_refused_under_jit_too(pair):
    a, b = pair
    for curve in (dln.closed_form.diagonal, dln.closed_form.commuting):
        with pytest.raises(RuntimeError, match=r"must be diagonal|must have the same polar factor"):
            jax.block_until_ready(jax.jit(lambda a, b, curve=curve: curve(a, b, 2.0)(0.5))(a, b))
    with pytest.raises(RuntimeError, match="positive factors of a and b must commute"):
        jax.block_until_ready(jax.jit(lambda a, b: dln.closed_form.commuting(a, b, 2.0)(0.5))(*SKEW))
    lower, upper = jax.jit(dln.distance_bounds)(a, b.at[0].multiply(-1.0), 2.0)
    assert jnp.isfinite(lower) and jnp.isinf(upper)


def test_geodesic_that_cannot_be_followed_has_no_conjugate_time(pair):
    line = geodesic(*pair, np.inf)
    assert jnp.isinf(line.conjugate_time) or line.conjugate_time > 0
    assert jnp.isnan(eqx.tree_at(lambda g: g.momentum, line, 1e6 * line.momentum).conjugate_time)


@pytest.mark.parametrize(
    ("first", "coarse", "fine", "index"),
    [(np.inf, 0, 0, 0), (np.inf, 42, 25, 0), (0.5, 1, 1, 1), (0.5, 2, 1, -1), (0.5, 0, 0, -1), (np.nan, 1, 1, -1)],
)
def test_index_is_that_of_the_conjugate_times_or_unknown(first, coarse, fine, index):
    assert index_of(*map(jnp.asarray, (first, coarse, fine))) == index


def test_ends_that_cannot_be_joined_have_a_code(pair):
    a, _ = pair
    ends = {
        "other_component": [a * jnp.array([[1.0], [-1.0]]), 0 * a],
        "non_finite": [a * jnp.nan, a.at[0, 0].set(jnp.inf)],
        "successful": [1e6 * a, a, a + 1e-14],
    }
    for name, b in [(name, b) for name, some in ends.items() for b in some]:
        # What `geodesic` finds where the ends are traced, and not refused.
        found = connect(a, b, dln.Balanced(3.0), rtol=jnp.asarray(1e-11))
        assert found.result.names == name
        assert not any(bool(jnp.any(jnp.isnan(z))) for z in (found.length, found.p, found.p_end, found.error))
        assert bool(jnp.isfinite(found.length)) == (name == "successful")
