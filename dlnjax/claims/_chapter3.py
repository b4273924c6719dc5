"""Section 3.1: geodesics, and the images of geodesics under a submersion."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import mpmath
import numpy as np
from scipy.integrate import solve_ivp

import dlnjax
from dlnjax.claims import _chapter3_equation, _chapter3_lines, _chapter3_wasserstein
from dlnjax.claims._claim import Claim
from dlnjax.claims._curves import flat
from dlnjax.claims._factors import defect, differential, Frame, frame2, product, push, twist
from dlnjax.claims._spectra import generator, off


class Segment(NamedTuple):
    """Two numbers, which are the ends of a curve in (0, inf), d = 1."""

    a: float
    b: float
    depth: float


def segment(key, depth) -> Segment:
    a, ratio = generator(key).uniform((0.3, 1.5), (1.5, 4.0))
    return Segment(float(a), float(a * ratio), depth)


def speed_squared(x, v, depth):
    """The squared speed g^N(v, v) at X = x, d = 1, with the 1/N of Remark 2.2.3."""
    return v**2 / x ** (2 - 2 / mpmath.mpf(depth))


def measured(at: Segment, power: float, outer=1.0) -> float:
    """The error of (integral of g^power)^outer as the arc length, along x(t) = a + (b - a) t^2."""
    to, _ = flat(at.depth)
    speed = lambda t: speed_squared(at.a + (at.b - at.a) * t**2, 2 * (at.b - at.a) * t, at.depth) ** power
    integral: Any = mpmath.quad(speed, [0, 1])
    return off(float(integral) ** outer, to(at.b) - to(at.a))


ARC_LENGTH = Claim(
    name="(3.3)",
    statement="L(x, x') = g(x', x') is the arc length of x",
    where="Section 3.1, (3.1)-(3.3)",
    expected="corrected",
    note="It is the squared speed; the length integrates its root.",
    draw=segment,
    printed=lambda at: measured(at, 1.0),
    corrected=lambda at: measured(at, 0.5),
    tampered=(
        ("the root of the integral", lambda at: measured(at, 1.0, 0.5)),
        ("the fourth root", lambda at: measured(at, 0.25)),
    ),
    examples=(Segment(1.0, 4.0, 2.0),),
)


class Along(NamedTuple):
    """The geodesic from a to b in (0, inf), d = 1, at a time t."""

    a: float
    b: float
    t: float
    depth: float

    def x(self, t):
        n = mpmath.mpf(self.depth)
        a, b = mpmath.mpf(self.a), mpmath.mpf(self.b)
        if mpmath.isinf(n):
            return a ** (1 - t) * b**t
        return ((1 - t) * a ** (1 / n) + t * b ** (1 / n)) ** n

    def v(self, t):
        return mpmath.diff(self.x, t)


def along_geodesic(key, depth) -> Along:
    at = segment(key, depth)
    return Along(at.a, at.b, float(generator(key).uniform(0.2, 0.8)), depth)


def euler_lagrange(at: Along, sign: float) -> float:
    """The error of d/dt dL/dx' = sign dL/dx for L = g."""
    with mpmath.workdps(60):
        of_v = lambda t: mpmath.diff(lambda v: speed_squared(at.x(t), v, at.depth), at.v(t))
        left = mpmath.diff(of_v, at.t)
        right = mpmath.diff(lambda x: speed_squared(x, at.v(at.t), at.depth), at.x(at.t))
        return float(abs(left - sign * right) / abs(right))


EULER_LAGRANGE = Claim(
    name="(3.4)",
    statement="d/dt (dL/dx') = -dL/dx",
    where="Section 3.1, (3.4)",
    expected="corrected",
    note="The sign: d/dt (dL/dx') = +dL/dx.",
    draw=along_geodesic,
    printed=lambda at: euler_lagrange(at, -1),
    corrected=lambda at: euler_lagrange(at, 1),
    tampered=(("twice dL/dx", lambda at: euler_lagrange(at, 2)), ("half", lambda at: euler_lagrange(at, 0.5))),
    draws=1,
    examples=(Along(1.0, 4.0, 0.5, 2.0),),
)


def legendre(x, p, depth):
    """The Hamiltonian (3.5) for L = g/2. The supremum is where the derivative in v vanishes."""
    lagrangian = lambda v: speed_squared(x, v, depth) / 2
    v = mpmath.findroot(lambda v: p - mpmath.diff(lagrangian, v), p)
    return p * v - lagrangian(v)


def canonical(at: Along, sign=-1, scale=1) -> float:
    """The error of (3.6)-(3.7) along a geodesic, with p = scale dL/dx' and p' = sign dH/dx."""
    with mpmath.workdps(40):
        x, v, depth = at.x(at.t), at.v(at.t), at.depth
        momentum = lambda t: mpmath.diff(lambda v: speed_squared(at.x(t), v, depth) / 2, at.v(t)) * scale
        p = momentum(at.t)
        of_p = mpmath.diff(lambda p: legendre(x, p, depth), p)
        of_x = mpmath.diff(lambda x: legendre(x, p, depth), x)
        return float(max(abs(of_p / v - 1), abs(mpmath.diff(momentum, at.t) / (sign * of_x) - 1)))


CANONICAL = Claim(
    name="(3.5)-(3.7)",
    statement="p = dL/dx' attains the supremum; x' = dH/dp and p' = -dH/dx",
    where="Section 3.1, (3.5)-(3.7)",
    expected="holds",
    draw=along_geodesic,
    printed=canonical,
    tampered=(
        ("p' = +dH/dx", lambda at: canonical(at, sign=1)),
        ("p = 2 dL/dx'", lambda at: canonical(at, scale=2)),
    ),
    draws=1,
)


def from_above(at: Frame, horizontal=True, end=0.5):
    """A geodesic of the balanced manifold M that starts along a horizontal vector: (factors, velocities) at three
    times.

    The acceleration of a geodesic is normal to M. It is the shortest acceleration that keeps every G_p at 0.
    """
    w0 = at.w
    shape = w0.shape
    v0 = np.linalg.lstsq(differential(w0), at.z.ravel(), rcond=None)[0].reshape(shape)
    if not horizontal:
        k = np.array([[0.0, 1.0], [-1.0, 0.0]])
        v0[0], v0[1] = v0[0] + k @ w0[0], v0[1] - w0[1] @ k

    def flow(_, state):
        w, v = state.reshape(2, *shape)
        units = np.eye(w.size).reshape(-1, *shape)
        jacobian = np.array([np.imag(defect(w + 1e-30j * u)).ravel() / 1e-30 for u in units]).T
        force = np.linalg.lstsq(jacobian, -2 * defect(v).ravel(), rcond=1e-10)[0]
        return np.concatenate([v.ravel(), force])

    start = np.concatenate([w0.ravel(), v0.ravel()])
    states = solve_ivp(flow, (0, end), start, method="DOP853", rtol=1e-10, atol=1e-11, t_eval=[0, end / 2, end]).y.T
    return states.reshape(-1, 2, *shape)


def projected(at: Frame, horizontal=True) -> float:
    """The error of Theorem 3.1.2: the geodesic of M stays horizontal, and its product is the geodesic of the library,
    with the same speed.
    """
    states, depth = from_above(at, horizontal), at.depth
    errors, size = [], np.max(np.abs(states[0, 1]))
    for w, v in states:
        errors.append(np.max(np.abs(twist(w, v))) / size)
    (w, v), (w_end, v_end) = states[0], states[-1]
    x, z = jnp.asarray(product(w)), jnp.asarray(push(w, v))
    p = dlnjax.metric_operator_inverse(x, z, depth)
    end = dlnjax.exponential(x, p, depth, ts=jnp.array([0.0, 0.5])).x[-1]

    def speed(w, v):
        x, z = jnp.asarray(product(w)), jnp.asarray(push(w, v))
        return float(dlnjax.inner(x, z, z, depth)) / depth

    errors += [off(product(w_end), end), off(speed(w, v), np.sum(v**2)), off(speed(w_end, v_end), np.sum(v_end**2))]
    return float(max(errors))


PROJECTED = Claim(
    name="Theorem 3.1.2",
    statement="a geodesic upstairs that starts horizontal stays so, and its image is a geodesic of the same length",
    where="Section 3.1.1",
    expected="holds",
    note="For phi: geodesics of the balanced manifold, integrated as such, against those of dlnjax downstairs.",
    draw=lambda key, depth: frame2(key, depth, z=0.3),
    printed=projected,
    tampered=(("a start that is not horizontal", lambda at: projected(at, horizontal=False)),),
    depths=(2.0, 3.0, 4.0),
    whole=True,
    draws=1,
    tolerance=1e-6,
)


CLAIMS: tuple[Claim, ...] = (
    ARC_LENGTH,
    EULER_LAGRANGE,
    CANONICAL,
    PROJECTED,
    *_chapter3_wasserstein.CLAIMS,
    *_chapter3_equation.CLAIMS,
    *_chapter3_lines.CLAIMS,
)
