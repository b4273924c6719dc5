"""Beyond the thesis: parallel transport, the distance to the matrices of lower rank, and the isotropic matrices."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import dlnjax
from dlnjax.claims._claim import Claim
from dlnjax.claims._curvature import plane, WHERE
from dlnjax.claims._spectra import as_matrix, eigenvalues, generator, off, orthogonal, spectrum


class Ends(NamedTuple):
    """Two matrices with determinants of one sign, two tangent vectors at the first, and the depth."""

    a: np.ndarray
    b: np.ndarray
    z: np.ndarray
    w: np.ndarray
    depth: float


def near(key, depth) -> Ends:
    """Ends of which the second is a step from the first, so that every search arrives."""
    rng = generator(key)
    a = (orthogonal(rng, 2) * spectrum(rng, 2)) @ orthogonal(rng, 2).T
    b = a + 0.2 * np.linalg.norm(a, -2) * rng.standard_normal((2, 2))
    z, w = rng.standard_normal((2, 2, 2))
    return Ends(a, b, z, w, depth)


def ordered(key, depth) -> Ends:
    """Diagonal ends with their values in one order."""
    rng = generator(key)
    a, b = (np.diag(spectrum(rng, 2)) for _ in range(2))
    z, w = rng.standard_normal((2, 2, 2))
    return Ends(a, b, z, w, depth)


_inner = jax.jit(dlnjax.inner)
# The inner products agree to the error of the geodesic and of the transport, each at rtol 1e-11.
INTEGRATION = 1e-8


def carried(at: Ends) -> np.ndarray:
    """Z and W at the end of the geodesic."""
    line = dlnjax.geodesic(jnp.asarray(at.a), jnp.asarray(at.b), at.depth)
    return np.stack([dlnjax.transport(line, jnp.asarray(z)) for z in (at.z, at.w)])


def by_left(at: Ends) -> np.ndarray:
    """Z and W moved by B A^(-1), which is linear and takes A to B."""
    return np.stack([at.b @ np.linalg.solve(at.a, z) for z in (at.z, at.w)])


def isometric(at: Ends, move=carried) -> float:
    """The error of the lengths of Z and W and of their inner product."""
    z, w = move(at)
    of = lambda x, z, w: float(_inner(jnp.asarray(x), jnp.asarray(z), jnp.asarray(w), at.depth))
    before = [of(at.a, at.z, at.z), of(at.a, at.w, at.w), of(at.a, at.z, at.w)]
    return off([of(at.b, z, z), of(at.b, w, w), of(at.b, z, w)], before)


ISOMETRY = Claim(
    name="B3.5, transport is an isometry",
    statement="parallel transport along a geodesic keeps g(Z, W)",
    where=WHERE,
    expected="holds",
    note="Along the geodesic that shooting finds, to its error.",
    draw=near,
    printed=isometric,
    tampered=(
        ("the vectors as they are", lambda at: isometric(at, lambda at: (at.z, at.w))),
        ("B A^(-1) Z", lambda at: isometric(at, by_left)),
    ),
    draws=1,
    tolerance=INTEGRATION,
)


def along_diagonals(at: Ends, *, power=0.5, antisymmetric=True) -> float:
    """The error of the closed form: y constant, the parts of a pair scaled by sqrt(lambda_kl)."""
    a, b = np.diag(at.a), np.diag(at.b)
    ratio = eigenvalues(b, at.depth) / eigenvalues(a, at.depth)
    scale = ratio**power
    expected = scale * at.z
    if not antisymmetric:
        half = (at.z - at.z.T) / 2
        expected = expected - scale * half + half
    line = dlnjax.geodesic(jnp.asarray(at.a), jnp.asarray(at.b), at.depth)
    return off(np.asarray(dlnjax.transport(line, jnp.asarray(at.z))), expected)


DIAGONALS = Claim(
    name="B3.6, transport along diagonal matrices",
    statement="along a diagonal geodesic the entries dy_k of Z are constant, and the symmetric and the antisymmetric "
    "part of each pair scale by lambda_kl^(1/2)",
    where=WHERE,
    expected="holds",
    note="dy = lambda_kk^(-1/2) Z_kk: every entry of Z scales by lambda_kl^(1/2).",
    draw=ordered,
    printed=along_diagonals,
    tampered=(
        ("lambda_kl", lambda at: along_diagonals(at, power=1.0)),
        ("the antisymmetric part as it is", lambda at: along_diagonals(at, antisymmetric=False)),
    ),
    draws=1,
    tolerance=INTEGRATION,
)


class Edge(NamedTuple):
    """A matrix X and a tangent vector at it."""

    x: np.ndarray
    z: np.ndarray
    depth: float


def edge(key, depth) -> Edge:
    at = plane(key, depth)
    return Edge(at.x, at.z, depth)


def speed(x: np.ndarray, z: np.ndarray, depth: float) -> float:
    """The norm of Z in the metric, by the operator as a matrix."""
    scale = 1.0 if math.isinf(depth) else depth
    return math.sqrt(z.ravel() @ np.linalg.solve(as_matrix(x, depth) / scale, z.ravel()))


def in_y(sigma: float, depth: float) -> float:
    return math.log(sigma) if math.isinf(depth) else depth * sigma ** (1 / depth)


# The path of the least singular value ends at this share of it. The integral to 0 would be improper at infinite depth.
END = 0.1


def to_the_edge(at: Edge, length=in_y) -> float:
    """The error of three statements.

    The path of the least singular value alone has the length of its way in y. No motion changes y faster than its
    speed. The distance of the library is the limit of that length.
    """
    n, (u, sigma, vt) = at.depth, np.linalg.svd(at.x)
    least, along = sigma[-1], np.outer(u[:, -1], vt[-1])
    nodes, weights = np.polynomial.legendre.leggauss(12)
    steps = np.log(END) * (1 + nodes) / 2
    total = 0.0
    for step, weight in zip(steps, weights, strict=True):
        value = least * np.exp(step)
        total -= weight / 2 * np.log(END) * speed(at.x + (value - least) * along, value * along, n)
    fastest = abs(np.sum(at.z * along)) * least ** (1 / n - 1) / speed(at.x, at.z, n) - 1
    errors = [off(total, length(least, n) - length(END * least, n)), fastest]
    found = float(dlnjax.boundary_distance(jnp.asarray(at.x), n))
    return max(*errors, float(found < math.inf) if math.isinf(n) else off(found, length(least, n)))


BOUNDARY = Claim(
    name="B3.7, the distance to lower rank",
    statement="the distance from X to the matrices of lower rank is N sigma_min^(1/N), and infinite at N = inf alone",
    where=WHERE,
    expected="holds",
    note="So the metric is complete at infinite depth alone. log sigma_min takes the place of y there.",
    draw=edge,
    printed=to_the_edge,
    tampered=(
        ("sigma_min^(1/N)", lambda at: to_the_edge(at, lambda s, n: s ** (1 / n))),
        ("sigma_min", lambda at: to_the_edge(at, lambda s, n: s)),
        ("N sigma^(2/N)", lambda at: to_the_edge(at, lambda s, n: in_y(s**2, n))),
    ),
    draws=2,
)


class Turn(NamedTuple):
    """The matrices r I and r R(theta), R(theta) the rotation by theta."""

    r: float
    theta: float
    depth: float


def turn(key, depth) -> Turn:
    rng = generator(key)
    return Turn(float(rng.uniform(0.5, 2)), float(rng.uniform(0.5, 2.5)), depth)


def on_cone(at: Turn, *, share=1.0, factor=2 * 2**0.5) -> float:
    """The error of the length of the geodesic between the two matrices."""
    c, s = math.cos(at.theta), math.sin(at.theta)
    line = dlnjax.geodesic(at.r * jnp.eye(2), at.r * jnp.array([[c, -s], [s, c]]), at.depth)
    if math.isinf(at.depth):
        return off(line.length, factor * share * at.theta / 2)
    chord = at.depth * math.sin(share * at.theta / (2 * at.depth))
    return off(line.length, factor * at.r ** (1 / at.depth) * chord)


CONE = Claim(
    name="B3.8, the cone of isotropic matrices",
    statement="at d = 2 the matrices r R(theta) are a flat cone of angle 2 pi/N: from r I to r R(theta) it is "
    "2^(3/2) N r^(1/N) sin(theta/(2N))",
    where=WHERE,
    expected="holds",
    note="At infinite depth 2^(1/2) theta: a cylinder. For theta below pi.",
    draw=turn,
    printed=on_cone,
    tampered=(
        ("2 N r^(1/N) sin(theta/(2N))", lambda at: on_cone(at, factor=2.0)),
        ("sin(theta/N)", lambda at: on_cone(at, share=2.0)),
    ),
    draws=1,
    tolerance=INTEGRATION,
)

CLAIMS: tuple[Claim, ...] = (ISOMETRY, DIAGONALS, BOUNDARY, CONE)
