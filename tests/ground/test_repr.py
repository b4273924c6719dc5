"""How solutions show themselves. They are made by hand, which compiles nothing."""

import re
from xml.etree import ElementTree

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlnjax as dln
from dlnjax import plot
from dlnjax._networks.flow import NetworkSolution
from dlnjax._networks.training import Training
from dlnjax._results import RESULTS

SPREAD = np.exp(-np.outer(np.linspace(0, 1, 5), [0, 1, 2]))


def codes(*values):
    return RESULTS(jnp.asarray(values if values else 0))


def flow(sigma, *result):
    sigma = jnp.asarray(sigma)
    *n, _, d = sigma.shape
    frame = jnp.broadcast_to(jnp.eye(d), (*n, d, d))
    each = jnp.zeros(n, int)
    return dln.FlowSolution(
        ts=jnp.linspace(0, 1, sigma.shape[-2]),
        sigma=sigma,
        final=dln.SVD(frame, sigma[..., -1, :], frame),
        t_end=jnp.ones(n),
        result=codes(*result),
        stats={"steps": each, "rejected": each, "evaluations": each},
        observed=None,
        depth=dln.Balanced(jnp.inf),
        rtol=jnp.asarray(1e-6),
        atol=jnp.asarray(1e-8),
        energy_name="Schatten",
        _svd=None,
        _energy=None,
    )


@pytest.fixture(scope="module")
def geodesic():
    """exp(t) I at infinite depth, with the covector I."""
    a, zero = jnp.eye(2), jnp.zeros(())
    return dln.GeodesicSolution(
        a, jnp.e * a, dln.Balanced(jnp.inf), a, a / jnp.e, jnp.sqrt(2.0), zero, zero, codes(), {"shots": jnp.asarray(1)}
    )


def network(shape, **more):
    return {"weights": jnp.broadcast_to(jnp.eye(3), (*shape, 3, 3)), "result": codes(), **more}


TIMES = jnp.linspace(0, 1, 5)
SHOWN = [
    (flow(SPREAD), "FlowSolution: d = 3", 3, "singular values, 0.14 to 1"),
    (flow([SPREAD, 3 * SPREAD], 0, 0), "FlowSolution: 2 seeds", 3, "medians of the singular values of 2, 0.27 to 2"),
    (dln.ExponentialSolution(TIMES, *([jnp.ones((5, 3, 3))] * 2), TIMES[-1], TIMES[0], codes(), {}), "d = 3", 1, "3"),
    (
        NetworkSolution(ts=TIMES, t_end=TIMES[-1], stats={"steps": jnp.asarray(3)}, **network((5, 2))),
        "N = 2, d = 3, 5 times",
        3,
        "",
    ),
    (Training(steps=jnp.arange(5), **network((5, 2))), "Training(N = 2, d = 3, 4 steps, successful)", 3, ""),
    (
        Training(steps=jnp.arange(5), weights=(jnp.ones((5, 4, 2)), jnp.ones((5, 3, 4))), result=codes()),
        "Training(N = 2, widths 2, 4, 3, 4 steps, successful)",
        1,
        "",
    ),
]


@pytest.mark.parametrize(
    ("sol", "text", "lines", "caption"), SHOWN, ids=[f"{k} {type(s[0]).__name__}" for k, s in enumerate(SHOWN)]
)
def test_a_solution_shows_what_it_is_and_the_course_of_its_singular_values(sol, text, lines, caption):
    assert text in repr(sol) and repr(sol) == str(sol)
    tree = ElementTree.fromstring(sol._repr_html_())
    assert tree.find("pre").text == repr(sol)
    svg = tree.find(".//svg")
    assert svg.get("stroke") == "currentColor" and caption in svg.get("aria-label")
    assert len(svg.findall("polyline")) >= lines
    assert not re.search("nan|inf", ElementTree.tostring(svg).decode())
    ax = sol.plot()
    assert ax.get_xlabel() and ax.get_ylabel() == (
        "effective rank" if "seeds" in text else r"singular values $\sigma_i$"
    )
    # Axes that are given keep the title that they have.
    names = {dln.FlowSolution: r"depth $\infty$", dln.ExponentialSolution: ""}
    assert ax.get_title() == names.get(type(sol), ", ".join(re.findall(r"N = 2|d = 3|widths 2, 4, 3", text)))
    assert sol.plot(ax=ax.figure.add_subplot()).get_title() == ""


def test_lines_of_the_picture_are_the_logarithms():
    line = ElementTree.fromstring(flow(SPREAD)._repr_html_()).findall(".//polyline")[-1]
    points = np.array([p.split(",") for p in line.get("points").split()], float)
    # sigma_3 = exp(-2 t) falls from the top of the picture to its foot, evenly.
    np.testing.assert_allclose(points, np.linspace([0, 0], [220, 64], 5), atol=0.06)


@pytest.mark.long
def test_a_geodesic_shows_itself_from_end_to_end(geodesic):
    assert "sqrt" not in repr(geodesic) and "length 1.414213562" in repr(geodesic)
    assert "singular values, 1 to 2.7" in geodesic._repr_html_()
    line = geodesic.plot().lines[0]
    np.testing.assert_allclose(line.get_ydata(), np.exp(line.get_xdata()), rtol=1e-8)
    lost = eqx.tree_at(lambda g: g.result, geodesic, RESULTS.not_arrived)
    assert "<svg" not in lost._repr_html_() and "not_arrived" in lost._repr_html_()
    with pytest.raises(ValueError, match="did not arrive"):
        lost.plot()


def test_what_cannot_be_drawn_is_shown_in_words():
    for sigma in (SPREAD[:1], np.nan * SPREAD, 0 * SPREAD, [np.nan * SPREAD]):
        assert "FlowSolution" in flow(sigma)._repr_html_() and "<svg" not in flow(sigma)._repr_html_()
    one = Training(steps=jnp.asarray(7), **network((2,)))
    assert one._repr_html_() == f"<pre>{one!r}</pre>"
    with pytest.raises(ValueError, match="several numbers of steps"):
        one.plot()


def test_zeros_and_lost_seeds_leave_the_rest_to_be_seen():
    zero = SPREAD * [1, 1, 0]
    assert flow(zero)._repr_html_().count("<polyline") == 2
    assert [t.get_text() for t in flow(zero).plot().texts] == [r"$\sigma_{1}$", r"$\sigma_{2}$"]
    assert flow([SPREAD, np.nan * SPREAD], 0, 5)._repr_html_().count("<polyline") == 3


def test_a_picture_of_much_is_small():
    sol = flow(np.broadcast_to(np.exp(-np.outer(np.linspace(0, 1, 130), range(14))), (400, 130, 14)), *[0] * 400)
    assert "of 300 of 400, 2.3e-06 to 1" in (shown := sol._repr_html_())
    assert shown.count("<polyline") == 12 and len(shown) < 25_000


def test_traced_solutions_have_a_name():
    said = []
    jax.eval_shape(lambda s: said.append((repr(s), s._repr_html_())), flow(SPREAD))
    assert said == [("FlowSolution(traced)", "<pre>FlowSolution(traced)</pre>")]


def test_no_seeds_are_said_and_not_drawn():
    sol = flow([SPREAD, SPREAD], 0, 0)
    for none in (sol[:0], eqx.tree_at(lambda s: s.ts, sol, jnp.stack([sol.ts, sol.ts]))[:0]):
        assert repr(none) == "FlowSolution: 0 seeds, d = 3, 5 times"
        assert none._repr_html_() == f"<pre>{none!r}</pre>"
        with pytest.raises(ValueError, match="0 seeds, and nothing to draw"):
            none.plot()


@pytest.mark.parametrize("sol", [s[0] for s in SHOWN], ids=[f"{k} {type(s[0]).__name__}" for k, s in enumerate(SHOWN)])
def test_a_solution_in_part_has_a_name(sol):
    # The arrays of a solution in part are shapes, or gone.
    floats = eqx.filter(sol, eqx.is_inexact_array)
    for part in (floats, eqx.filter(sol, eqx.is_inexact_array, inverse=True), jax.eval_shape(lambda s: s, sol)):
        assert repr(part) == type(sol).__name__ and part._repr_html_() == f"<pre>{type(sol).__name__}</pre>"


def test_vmapped_flows_and_xarray_forms_are_drawn_alike():
    sol = flow([SPREAD, SPREAD], 0, 0)
    both = eqx.tree_at(lambda s: s.ts, sol, jnp.stack([sol.ts, sol.ts]))
    assert repr(both) == repr(sol) and both._repr_html_() == sol._repr_html_()
    for one, other in ((plot.effective_rank(sol), plot.effective_rank(sol.to_xarray())), (both.plot(), sol.plot())):
        np.testing.assert_allclose(one.lines[-1].get_ydata(), other.lines[-1].get_ydata())


def test_style_leaves_the_interactive_mode_as_a_notebook_sets_it(monkeypatch):
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "interactive", False)
    with plot.style():
        matplotlib.interactive(True)
    assert matplotlib.is_interactive() and matplotlib.rcParams["font.size"] != 8
