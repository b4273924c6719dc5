"""Charts of the flow in the frame, in which the singular values that are near one another have no common rotation.

Where two singular values nearly meet, the common rotation of their vectors grows without bound, while X hardly moves
by it. In a chart X = U K V^T, and K has entries off its diagonal for such values in place of their common rotation. In
these coordinates the flow is as smooth as in X. Each evaluation of the velocity diagonalises K.

- `Pairs`: two neighbours that nearly cross are partners, and K has blocks of one or two rows. From 16 singular values
  on, crossings are frequent, and each step is taken in this chart.
- `Blocks`: all values that are near one another share a block. LAPACK diagonalises K, which costs more than the rest of
  the evaluation. It pays where a flow tends to equal singular values while others still move: every step is then short,
  in the frame and in pairs, since it follows the turns of vectors that do not move X. See `misfit` of the frame.
"""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlnjax._flows.coordinates import Chart
from dlnjax._flows.frame import any_linked, Coupled, displacement, FrameCoordinates, LINKED, Motion, near_pairs
from dlnjax._lapack import eigh
from dlnjax._svd import SVD
from dlnjax._tree import positive
from dlnjax._types import Scalar

# With fewer singular values than this, the chart of pairs costs more time than it saves.
CHARTED = 16
# Two neighbouring singular values are partners only if their logarithms differ by less than this. For values farther
# apart, rounding in the square of the coupling would destroy digits of the smaller value.
NEAR = 0.5
# The distance on the line of the blocks of K before they are diagonalised. Scaled by their largest values, the
# eigenvalues of each block are about 1 at most.
APART = 3.0


class FrameChart(eqx.Module):
    """What both charts share. `rotation` stands for the turn that makes K diagonal, in the form that `turn` takes."""

    flow: FrameCoordinates

    @abc.abstractmethod
    def enter(self, y: SVD) -> Coupled: ...

    @abc.abstractmethod
    def core(self, z: Coupled) -> Float[Array, "r r"]:
        """K as a matrix, or, for a motion, dK."""

    @abc.abstractmethod
    def rotation(self, z: Coupled) -> Array:
        """The turn of the columns that makes K diagonal."""

    @abc.abstractmethod
    def turn(self, z: Coupled, rotation: Array) -> Coupled:
        """The same matrix in columns that are turned, or, for a motion, the same motion."""

    @abc.abstractmethod
    def back(self, rotation: Array) -> Array:
        """The rotation that undoes `rotation`."""

    @abc.abstractmethod
    def apart(self) -> Float[Array, "r r"]:
        """1 for each pair of values with a common rotation, and 0 for those between which K may have an entry."""

    @abc.abstractmethod
    def pull(self, sigma: Float[Array, " r"], motion: Motion) -> Array:
        """The coupling of dK/dt where K is diagonal: -lambda_kl (G_kl + G_lk)/2."""

    def leave(self, z: Coupled, dz: Coupled) -> tuple[SVD, Coupled]:
        rotation = self.rotation(z)
        turned = self.turn(z, rotation)
        return turned.frame, self.turn(dz, rotation)

    def velocity(self, z: Coupled) -> tuple[Coupled, Scalar | None]:
        rotation = self.rotation(z)
        y = self.turn(z, rotation)
        motion = self.flow.motion(y.frame, self.apart())
        dy = motion.velocity
        turned = Coupled(dy.u, dy.sigma, dy.v, self.pull(y.sigma, motion))
        return self.turn(turned, self.back(rotation)), motion.unrest

    def measure(self, z: Coupled, dz: Coupled) -> Scalar:
        return self.flow.measure(z.frame, dz)

    def displacement(self, z: Coupled, dz: Coupled) -> Scalar:
        # The part of K off the diagonal is small, and turns of the frame move X by little more if it is left out.
        return displacement(z.frame, dz.u, self.core(dz), dz.v)

    def determined(self, z: Coupled, dz: Coupled) -> Coupled:
        moved = self.flow.determined(z.frame, dz)
        assert isinstance(moved, Coupled)
        return moved


class Pairs(FrameChart):
    """The chart in which the values of partners may cross. K is diagonalised in closed form."""

    # The gauge: for each singular value the index of its partner, or its own index if it has none.
    partner: Int[Array, " d"]

    def enter(self, y: SVD) -> Coupled:
        return Coupled(y.u, y.sigma, y.v, jnp.zeros_like(y.sigma))

    def core(self, z: Coupled) -> Float[Array, "d d"]:
        pairs = (self.partner[:, None] == jnp.arange(len(self.partner))).astype(z.sigma.dtype)
        return jnp.diag(z.sigma) + pairs * z.coupling[:, None]

    def rotation(self, z: Coupled) -> Float[Array, " d"]:
        """The tangent of the angle by which each column must turn towards its partner to make K diagonal."""
        half = (z.sigma - z.sigma[self.partner]) / 2
        # Where the two values are equal, the angle is 45 degrees: the tangent is 1 for one partner and -1 for the
        # other.
        order = jnp.sign(self.partner - jnp.arange(len(half))).astype(half.dtype)
        width = jnp.abs(half) + jnp.sqrt(half**2 + z.coupling**2)
        return jnp.where(half == 0, order, jnp.sign(half)) * z.coupling / positive(width)

    def turn(self, z: Coupled, rotation: Float[Array, " d"]) -> Coupled:
        p, t = self.partner, rotation
        # The divisions come last, for the reason that `rotation_rates` gives.
        width = 1 + t * t
        columns = lambda q: (q + t * q[:, p]) / jnp.sqrt(width)
        values = (z.sigma + t * t * z.sigma[p] + 2 * t * z.coupling) / width
        coupling = ((1 - t * t) * z.coupling - t * (z.sigma - z.sigma[p])) / width
        return Coupled(columns(z.u), values, columns(z.v), coupling)

    def back(self, rotation: Float[Array, " d"]) -> Float[Array, " d"]:
        return -rotation

    def apart(self) -> Float[Array, "d d"]:
        # Numbers are multiplied, since XLA does not vectorise a loop over truth values on a CPU.
        return (self.partner[:, None] != jnp.arange(len(self.partner))).astype(self.flow.rtol.dtype)

    def pull(self, sigma: Float[Array, " d"], motion: Motion) -> Float[Array, " d"]:
        p, i, g, size = self.partner, jnp.arange(len(sigma)), motion.pullback, jnp.abs(sigma)
        eigenvalues = motion.relative[i, p] * (size + size[p])
        return jnp.where(p == i, 0.0, -eigenvalues * (g[i, p] + g[p, i]) / 2)


class Blocks(FrameChart):
    """The chart in which all values of a block may cross one another. LAPACK diagonalises K."""

    # The gauge: for each singular value the number of its block.
    block: Int[Array, " d"]

    def enter(self, y: SVD) -> Coupled:
        return Coupled(y.u, y.sigma, y.v, jnp.zeros((len(y.sigma), len(y.sigma)), y.sigma.dtype))

    def core(self, z: Coupled) -> Float[Array, "d d"]:
        return jnp.diag(z.sigma) + z.coupling

    def rotation(self, z: Coupled) -> Float[Array, "d d"]:
        """The eigenvectors of K, those nearest to the columns as they are.

        LAPACK finds eigenvalues to rounding in the largest of them, which would be the end of the small blocks. Each
        block is therefore divided by its largest value. The blocks are moved apart, as equal eigenvalues of two blocks
        could mix their vectors.
        """
        same = self._same()
        largest = jnp.max(jnp.where(same, jnp.abs(z.sigma), 0.0), axis=1)
        place = APART * (self.block - len(self.block) / 2)
        k = self.core(z) / positive(largest)[:, None] + jnp.diag(place)
        ascending = jnp.argsort(jnp.diagonal(k))
        q = jnp.zeros_like(k).at[:, ascending].set(eigh(k)[1])
        return jnp.where(same, q, 0.0) * jnp.where(jnp.diagonal(q) < 0, -1.0, 1.0)

    def turn(self, z: Coupled, rotation: Float[Array, "d d"]) -> Coupled:
        k = rotation.T @ self.core(z) @ rotation
        sigma = jnp.diagonal(k)
        return Coupled(z.u @ rotation, sigma, z.v @ rotation, self._off_diagonal(k))

    def back(self, rotation: Float[Array, "d d"]) -> Float[Array, "d d"]:
        return rotation.T

    def apart(self) -> Float[Array, "d d"]:
        return 1.0 - self._same().astype(self.flow.rtol.dtype)

    def pull(self, sigma: Float[Array, " d"], motion: Motion) -> Float[Array, "d d"]:
        g, size = motion.pullback, jnp.abs(sigma)
        eigenvalues = motion.relative * (size[:, None] + size)
        return self._off_diagonal(-eigenvalues * (g + g.T) / 2)

    def _same(self) -> Bool[Array, "d d"]:
        return self.block[:, None] == self.block

    def _off_diagonal(self, k: Float[Array, "d d"]) -> Float[Array, "d d"]:
        """The entries of K within the blocks, without the diagonal."""
        return jnp.where(self._same() & ~jnp.eye(len(k), dtype=bool), k, 0.0)


class PairedFrame(FrameCoordinates):
    """The flow in the frame, each step in the chart of `Pairs`."""

    def gauge(self, y: SVD) -> Int[Array, " d"]:
        return partners(y.sigma)

    def chart(self, gauge: Int[Array, " d"]) -> Pairs:
        return Pairs(self, gauge)


class BlockedFrame(FrameCoordinates):
    """The flow in the frame, each step in the chart of `Blocks`."""

    def gauge(self, y: SVD) -> Int[Array, " d"]:
        return blocks(y.sigma)

    def chart(self, gauge: Int[Array, " d"]) -> Blocks:
        return Blocks(self, gauge)

    def misfit(self, chart: Chart, y: SVD, z: Any, dz: Any) -> Bool[Array, ""]:
        return ~any_linked(y.sigma)


def partners(sigma: Float[Array, " d"]) -> Int[Array, " d"]:
    """For each singular value the index of its partner, or its own index if it has none.

    Two values are partners if each is the nearest to the other and they are near.
    """
    i, (near, gap) = jnp.arange(len(sigma)), near_pairs(sigma, NEAR)
    nearest = jnp.argmin(jnp.where(near, gap, jnp.inf), axis=1)
    mutual = (nearest[nearest] == i) & near[i, nearest]
    return jnp.where(mutual, nearest, i)


def blocks(sigma: Float[Array, " d"]) -> Int[Array, " d"]:
    """For each singular value the number of its block, counted from the largest value on."""
    order = jnp.argsort(-sigma)
    log = jnp.log(positive(sigma))[order]
    linked = (log[:-1] - log[1:] < LINKED) & (sigma[order][1:] > 0)
    number = jnp.cumsum(jnp.append(False, ~linked))
    return jnp.zeros_like(order).at[order].set(number)
