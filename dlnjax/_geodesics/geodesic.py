"""Geodesics between two matrices: the public functions, from `geodesic` to `distance_bounds`."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from dlnjax._checks import as_real, is_concrete, known, require
from dlnjax._compile import compiled
from dlnjax._geodesics import guesses
from dlnjax._geodesics.action import hessian, respond, segments
from dlnjax._geodesics.connection import connect, connect_all, Connection, Frame, measure, signs_of
from dlnjax._geodesics.ends import as_ends
from dlnjax._geodesics.exponential import geodesic_flow, orthonormal
from dlnjax._geodesics.hamiltonian import integrate
from dlnjax._geodesics.jacobi import conjugate_time
from dlnjax._geodesics.shooting import SEGMENTS
from dlnjax._geometry.depth import as_kernel, Depth, unchanged
from dlnjax._geometry.kernel import Kernel
from dlnjax._results import result_counts, RESULTS
from dlnjax._saved import Layout, Solution
from dlnjax._show import Curves, singular_values_of
from dlnjax._solver import as_tolerance
from dlnjax._svd import svd
from dlnjax._tree import nan_unless
from dlnjax._types import Number, Numbers, Scalar, Square

# The default of `rtol`, a thousandth of the 1e-8 to which a geodesic must arrive.
_RTOL = 1e-11
# The Morse index is counted on two meshes, of so many times `SEGMENTS` pieces.
_MESHES = 2, 8
# Momenta with a smaller relative difference than this belong to one path. This is far more than the error of a
# momentum, and far less than the difference between two paths.
_SAME_MOMENTUM = 1e-6


class GeodesicSolution(Solution):
    """A geodesic X(t), 0 <= t <= 1, between two matrices.

    **Attributes:**

    - `a`, `b`: the ends; `depth`: the kernel, `Balanced(N)` for a number N.
    - `momentum`: the covector at `a` for which `exponential(a, momentum, depth)` is this geodesic.
    - `end_momentum`: the covector of the geodesic at `b`.
    - `length`: the length in the 1/N-normalised metric. The length in the thesis's metric is `length` / sqrt(N).
    - `endpoint_error`: |X(1) - b| / |b|, Frobenius; inf where no geodesic was shot at `b` itself.
    - `hamiltonian_drift`: the relative change of H along the geodesic.
    - `result`: a code of `RESULTS`.
    - `stats`: the number of `shots` (trial geodesics), the solver `steps` of all shots, the `guess` that led here (0:
      polar, 1: frames), and the `power` p: the last geodesic found joins the ends with their singular values to the
      power p, which the search raises to 1.

    **Example:**

        >>> a, b = jnp.diag(jnp.array([4.0, 1.0])), jnp.array([[2.5, 1.5], [1.5, 2.5]])
        >>> line = dln.geodesic(a, b, 2)
        >>> bool(line.endpoint_error < 1e-8), bool(line.hamiltonian_drift < 1e-8), int(line.index)
        (True, True, 0)
    """

    a: Float[Array, "*n d d"]
    b: Float[Array, "*n d d"]
    depth: Kernel
    momentum: Float[Array, "*n d d"]
    end_momentum: Float[Array, "*n d d"]
    length: Float[Array, "*n"]
    endpoint_error: Float[Array, "*n"]
    hamiltonian_drift: Float[Array, "*n"]
    result: RESULTS
    stats: dict[str, Shaped[Array, "*n"]]

    layout: ClassVar[Layout] = Layout(
        format="dlnjax.GeodesicSolution/1",
        lead="pair",
        sized="length",
        axes=dict.fromkeys(("a", "b", "momentum", "end_momentum"), "row column"),
        notes={
            "a": "the start",
            "b": "the end",
            "momentum": "covector at a; the exponential of it is the geodesic",
            "end_momentum": "covector at b",
            "length": "of the 1/N-normalised metric; the thesis's is length / sqrt(N)",
            "endpoint_error": "|X(1) - b| / |b|, Frobenius",
            "hamiltonian_drift": "relative change of H on the way",
        },
    )

    def evaluate(self, t: Numbers) -> Float[Array, "*nt d d"]:
        """X at times in [0, 1]: one, or an array of them in any order."""
        t = as_real("t", t, "It is a time in [0, 1], or an array of them.").astype(self.a.dtype)
        t = require(
            t,
            ~((known(t) >= 0) & (known(t) <= 1)).all(),
            "t must lie in [0, 1]: beyond the ends use dlnjax.exponential.",
        )
        states = self._each(lambda a, b, p, kernel: _states(a, b, p, kernel, t.ravel()))
        return states.reshape(self.a.shape[:-2] + t.shape + self.a.shape[-2:])

    @property
    def conjugate_time(self) -> Float[Array, "*n"]:
        """The first t in (0, 1] at which the derivative of the exponential in the momentum is singular, or inf; NaN if
        the Jacobi fields cannot be followed to the end.

        A geodesic with a conjugate time before 1 is not the shortest, not even among its neighbours. The time has its
        derivative in the ends and the depth, NaN where several fields vanish at once or singular values of an end
        repeat, and 0 where it is inf.
        """
        return self._each(_conjugate_time)

    @property
    def index(self) -> Int[Array, "*n"]:
        """The Morse index, the number of conjugate times before 1: 0 for a local minimum of length.

        It is -1 where it could not be found: the geodesic has conjugate times, and two meshes count different numbers.
        """
        return self._each(_index)

    def _each(self, f: Callable[..., Array]) -> Array:
        """f(a, b, momentum, kernel) for each of the pairs, over the leading axes."""
        g = f
        for _ in range(self.length.ndim):
            g = eqx.filter_vmap(g)
        return g(self.a, self.b, self.momentum, unchanged(self.depth, self.a.dtype))

    def _curves(self) -> Curves:
        if not np.all(self.result.names == "successful"):
            raise ValueError("a geodesic that did not arrive is no curve between its ends: see result, endpoint_error.")
        times = np.linspace(0, 1, 33)
        return Curves.of(times, singular_values_of(self.evaluate(times)), r"$t$")

    def _describe(self) -> str:
        if self.length.ndim:
            return f"GeodesicSolution({self.length.size} pairs, d = {self.a.shape[-1]}: {result_counts(self.result)})"
        return (
            f"GeodesicSolution(d = {self.a.shape[-1]}, {self.depth}, length {float(self.length):.10g}, "
            f"endpoint error {float(self.endpoint_error):.1e}, {self.result.names})"
        )


@compiled
def _states(a: Square, b: Square, p: Square, kernel: Kernel, t: Float[Array, " t"]) -> Float[Array, "t d d"]:
    frame, x = Frame.at_rest(a, b, kernel)
    order = jnp.argsort(t)
    ts = jnp.concatenate([jnp.zeros(1, t.dtype), t[order], jnp.ones(1, t.dtype)])
    out = geodesic_flow(x, frame.momentum_into(p), kernel, ts, rtol=_rtol(x))
    came = (ts <= out.t_end)[:, None, None]
    return jax.vmap(frame.out_of)(nan_unless(came, out.x)[1:-1])[jnp.argsort(order)]


@compiled
def _conjugate_time(a: Square, b: Square, p: Square, kernel: Kernel) -> Scalar:
    frame, x = Frame.at_rest(a, b, kernel)
    return conjugate_time(x, frame.momentum_into(p), kernel, rtol=10 * _rtol(x))


@compiled
def _index(a: Square, b: Square, p: Square, kernel: Kernel) -> Int[Array, ""]:
    """The number of negative eigenvalues of the Hessian of the discrete action, counted on its pivots (Sylvester's
    law).

    By Morse's theorem this is the number of conjugate times. These themselves are not counted, since two that coincide
    would count as one. They say whether there are any at all, as between ill-conditioned ends the frames turn too fast
    for a mesh.
    """
    frame = Frame.of(svd(a), svd(b), kernel)
    x = frame.first.matrix
    p = frame.momentum_into(p)
    ts = guesses.times(frame.first, frame.last, kernel, _MESHES[1] * SEGMENTS)
    path = integrate(x, orthonormal(x, p, kernel), kernel, ts, _rtol(x))

    def count(skip: int) -> Int[Array, ""]:
        h = jnp.diff(ts[::skip])
        part, _ = segments(path.x[:-1:skip], h, kernel)
        return jnp.sum(respond(hessian(part, h))[1])

    first = conjugate_time(x, p, kernel, rtol=10 * _rtol(x))
    return index_of(first, count(_MESHES[1] // _MESHES[0]), count(1))


def index_of(first: Scalar, coarse: Int[Array, ""], fine: Int[Array, ""]) -> Int[Array, ""]:
    """The Morse index from the first conjugate time and what two meshes count, or -1 if these contradict each other."""
    sure = (first < 1) & (coarse == fine) & (fine > 0)
    return jnp.where(first >= 1, 0, jnp.where(sure, fine, -1))


def _rtol(x: Array) -> Scalar:
    """The tolerance with which a known geodesic is integrated again."""
    return jnp.asarray(_RTOL, x.dtype)


def _tolerance(rtol: Number, dtype: Any) -> Scalar:
    return as_tolerance("rtol", rtol).astype(dtype)


def _solution(a: Square, b: Square, kernel: Kernel, found: Connection) -> GeodesicSolution:
    return GeodesicSolution(
        a=a,
        b=b,
        depth=kernel,
        momentum=found.p,
        end_momentum=found.p_end,
        length=found.length,
        endpoint_error=found.error,
        hamiltonian_drift=found.drift,
        result=found.result,
        stats=found.stats,
    )


def geodesic(
    a: Square, b: Square, depth: Depth, *, rtol: Number = 1e-11, throw: bool = True, all: None = None
) -> GeodesicSolution:
    """The shortest geodesic found from `a` to `b`, by shooting with (3.46) from discrete paths of least action.

    The search starts from two paths in closed form: (3.76) with the polar factors turned, and a path that turns the
    singular vectors. Each path is deformed to a path of least action. The momentum of the shorter path almost arrives.
    Where the ends are ill-conditioned it does not, and Broyden's method finds the momentum that does. Composes with
    `jit` and `vmap`; momentum and length are differentiable in the ends, by Jacobi fields. For all critical paths, see
    `geodesics`.
    **Convention:** lengths are those of the 1/N-normalised metric; the thesis's are `length` / sqrt(N).

    **Main arguments:** `a` and `b`, `d d`, with determinants of one sign; `depth`, N in [1, inf], a number or a traced
    array.

    **Other arguments:** `rtol`, the error of a step of the solver; `throw`, raise if the geodesic does not arrive, to
    1e-8 |b| in the norm and to 1e-6 of its length in the metric: otherwise see `result`; `all` is no longer taken: see
    `geodesics`.

    **Returns:** a `GeodesicSolution`.

    **Raises:** `ValueError` or `TypeError` for bad input: shapes, NaN, a singular end, determinants of opposite sign;
    an error with the sentence of the code in `RESULTS` if none arrives and `throw`.

    **Example:**

        >>> a, b = jnp.diag(jnp.array([4.0, 1.0])), jnp.array([[2.5, 1.5], [1.5, 2.5]])
        >>> line = dln.geodesic(a, b, 2)
        >>> print(f"{line.length:.6f}")
        1.943826
        >>> print(line.evaluate(0.5).round(6))
        [[3.171041 0.789118]
         [0.789118 1.592805]]
    """
    if all is not None:
        raise TypeError("geodesic(..., all=...) is now dlnjax.geodesics(a, b, depth), the list of all critical paths.")
    a, b = as_ends(a, b)
    kernel, rtol = as_kernel(depth, a.dtype), _tolerance(rtol, a.dtype)
    solution = _solution(a, b, kernel, connect(a, b, kernel, rtol=rtol))
    return solution.result.error_if(solution, solution.result != RESULTS.successful) if throw else solution


def geodesics(
    a: Square, b: Square, depth: Depth, *, rtol: Number = 1e-11, throw: bool = True
) -> list[GeodesicSolution]:
    """All critical paths of the length found from `a` to `b`, shortest first, also those that are not minima.

    `geodesic` starts from two paths. From each of them, one geodesic is found by way of a path of least action, and one
    by shooting from the path itself. Geodesics with the same momentum, to 1e-6, count once. There may be more that are
    not found. Their number depends on the numbers in the ends, so that this function does not run under `jit`, `vmap`
    or `grad`. There use `geodesic`, which gives the shortest.

    **Arguments:** as `geodesic`; `throw`, raise if none arrives.

    **Returns:** a list of each `GeodesicSolution` that arrives, with the `index` 0 for a local minimum of length.

    **Raises:** as `geodesic`, and `TypeError` for traced ends or a traced depth.

    **Example:**

        >>> far = jnp.exp(jnp.array([6.0, 0.0]))
        >>> for line in dln.geodesics(jnp.diag(far), jnp.diag(far[::-1]), jnp.inf):
        ...     print(f"{line.length:.4f}, index {int(line.index)}")
        7.3621, index 0
        8.4853, index 1
    """
    a, b = as_ends(a, b)
    kernel, rtol = as_kernel(depth, a.dtype), _tolerance(rtol, a.dtype)
    if not all(is_concrete(z) for z in jax.tree.leaves((a, b, kernel, rtol))):
        raise TypeError(
            "geodesics does not run under jit, vmap or grad: how many paths it returns depends on the numbers. "
            "There use dlnjax.geodesic, the shortest of them."
        )
    tried = list(_critical(a, b, kernel, rtol))
    found = [one for one in tried if bool(one.result == RESULTS.successful)]
    different: list[GeodesicSolution] = []
    for one in sorted(found, key=lambda one: float(one.length)):
        size = _SAME_MOMENTUM * jnp.linalg.norm(one.momentum)
        if not any(jnp.linalg.norm(one.momentum - other.momentum) <= size for other in different):
            different.append(one)
    if throw and not different:
        raise RuntimeError(RESULTS[tried[0].result])
    return different


def _critical(a: Square, b: Square, kernel: Kernel, rtol: Scalar) -> Iterator[GeodesicSolution]:
    """The geodesics found from each guess, with and without a descent to least action before the first shot."""
    for descend in (True, False):
        every = connect_all(a, b, kernel, rtol, jax.device_put(descend), jax.device_put(True))
        for guess in range(2):
            one = jax.tree.map(lambda z, guess=guess: z[guess], every)
            one = eqx.tree_at(lambda c: c.stats, one, one.stats | {"guess": jnp.asarray(guess)})
            yield _solution(a, b, kernel, one)


def logarithm(a: Square, b: Square, depth: Depth, *, rtol: Number = 1e-11, throw: bool = True) -> Square:
    """The covector P at `a` whose geodesic, (3.46), is at `b` at time 1: the shortest such that was found.

    The tangent vector is `metric_operator(a, P, depth)`. Differentiable in `a` and `b`, by Jacobi fields.

    **Arguments:** `a` and `b`, `d d`, with determinants of one sign; `depth`, N in [1, inf]; `rtol` as in `geodesic`;
    `throw`, raise where none arrives: otherwise the covector there is NaN.

    **Returns:** a covector, `d d`.

    **Raises:** as `geodesic`.

    **Example:**

        >>> p = dln.logarithm(jnp.eye(2), jnp.diag(jnp.array([jnp.e, 1.0])), jnp.inf)
        >>> (p.round(6) + 0.0).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    line = geodesic(a, b, depth, rtol=rtol, throw=throw)
    return _of_success(line.result, line.momentum)


@compiled
def _of_success(result: RESULTS, momentum: Square) -> Square:
    # A covector carries no result code, so that NaN shows the failure.
    return nan_unless(result == RESULTS.successful, momentum)


def distance(a: Square, b: Square, depth: Depth, *, rtol: Number = 1e-11, throw: bool = True) -> Float[Array, ""]:
    """The length of the shortest geodesic found from `a` to `b`: sqrt(N) times the distance in the thesis's metric.

    Differentiable by the first variation, d(distance^2 / 2) = <P(1), dB> - <P(0), dA>, and in the depth. At equal ends
    the distance and the gradient of its square are 0. Second derivatives are NaN there: half the square has the metric
    at a as its Hessian, but autodiff goes through the corner of the distance. Isometries are X -> Q X R with Q and R
    orthogonal, and X -> X^T. X -> X^{-1} is an isometry at infinite depth alone: only there the kernel at X^{-1} is
    lambda_kl / (sigma_k sigma_l)^2.

    **Arguments:** `a` and `b`, `d d`, with determinants of one sign; `depth`, N in [1, inf]; `rtol` as in `geodesic`;
    `throw`, raise where none arrives: otherwise the distance there is infinite, and its gradient 0.

    **Returns:** a number.

    **Raises:** as `geodesic`.

    **Example:**

        >>> a, b = jnp.diag(jnp.array([4.0, 1.0])), jnp.array([[2.5, 1.5], [1.5, 2.5]])
        >>> print(f"{dln.distance(a, b, 2):.6f}")
        1.943826
        >>> jax.grad(dln.distance)(a, b, 2.0).shape
        (2, 2)
    """
    a, b = as_ends(a, b)
    length, result = measure(a, b, as_kernel(depth, a.dtype), rtol=_tolerance(rtol, a.dtype))
    return result.error_if(length, result != RESULTS.successful) if throw else length


def distance_bounds(a: Square, b: Square, depth: Depth) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Two numbers between which the distance lies, in closed form.

    With y(s) = N (s^(1/N) - 1), log s at infinite depth, and the polar factors A = S_A O_A, B = S_B O_B:

        |y(sigma_A) - y(sigma_B)| <= d(A, B) <= |y(S_A) - y(S_B)|_F + the length of the rotation from O_A to O_B.

    The first inequality holds because the diagonal of a tangent vector, in the frame of its point, is the motion of the
    singular values. The second holds by the triangle inequality and Theorem 3.4.2: the kernel of (3.76) is not above
    lambda. Where it is, the first term is longer by the root of their largest ratio. Both bounds allow for rounding.

    **Arguments:** as `distance`.

    **Returns:** (lower, upper), the same where A and B have the same singular vectors in the same order; upper is
    infinite where traced ends lie on different components.

    **Raises:** as `distance`.

    **Example:**

        >>> a, b = jnp.diag(jnp.array([4.0, 1.0])), jnp.array([[2.5, 1.5], [1.5, 2.5]])
        >>> lower, upper = dln.distance_bounds(a, b, 2)
        >>> print(f"{lower:.6f} <= {dln.distance(a, b, 2):.6f} <= {upper:.6f}")
        0.000000 <= 1.943826 <= 2.000000
    """
    a, b = as_ends(a, b)
    return _bounds(a, b, as_kernel(depth, a.dtype))


@compiled
def _bounds(a: Square, b: Square, kernel: Kernel) -> tuple[Scalar, Scalar]:
    frame = Frame.of(svd(a), svd(b), kernel)
    first, last = frame.first, frame.last
    lower, upper = map(frame.length, guesses.bounds(first, last, guesses.turns_between(first, last), kernel))
    return lower, jnp.where(signs_of(first, last) > 0, upper, jnp.inf)
