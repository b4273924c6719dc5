"""Result codes: compared by name, kept through every transformation, and said in sentences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlnjax as dln
from dlnjax._results import code_of, NAMES

CODES = dln.RESULTS.named(["steady", "non_finite", "steady"])


def test_names_and_sentences_come_one_for_one():
    for name in NAMES:
        code = getattr(dln.RESULTS, name)
        assert code.names == name and code.code.dtype == np.int32
        assert dln.RESULTS[code] == dln.RESULTS[name] and dln.RESULTS[name].endswith(".")
        assert str(code) == f"{name}: {dln.RESULTS[name]}" and repr(code) == f"<RESULTS.{code}>"
    assert len({dln.RESULTS[name] for name in NAMES}) == len(NAMES)
    assert dln.RESULTS[CODES].tolist() == [dln.RESULTS[name] for name in CODES.names]


def test_codes_are_compared_with_names_and_codes():
    for other in ("steady", dln.RESULTS.steady, ["steady"] * 3):
        assert (other == CODES).tolist() == (other == CODES).tolist() == [True, False, True]
        assert (other != CODES).tolist() == [False, True, False]
    assert bool(dln.RESULTS.steady == "steady") and not bool(dln.RESULTS.steady == "diverged")


def test_a_wrong_name_is_refused_with_the_names():
    for compare in (lambda: CODES == "stady", lambda: CODES != "stady", lambda: dln.RESULTS["stady"]):
        with pytest.raises(ValueError, match=r"no result 'stady'\. The names are successful, steady, .*component\."):
            compare()
    for other in (None, 1, jnp.ones(3)):
        with pytest.raises(TypeError, match="compared with the name of a code"):
            bool(other == CODES)


def test_many_codes_are_an_array():
    assert repr(CODES) == "RESULTS(non_finite 1, steady 2)" and str(CODES) == "non_finite 1, steady 2"
    assert len(CODES) == 3 and [str(code.names) for code in CODES] == CODES.names.tolist()
    assert CODES[1].names == "non_finite" and CODES[1:].names.tolist() == ["non_finite", "steady"]


def test_codes_pass_through_transformations():
    def later(code):
        return dln.RESULTS.where(code == "steady", dln.RESULTS.diverged, code), code != dln.RESULTS.steady

    expected = ["diverged", "non_finite", "diverged"]
    for run in (later, jax.jit(later), jax.vmap(later)):
        codes, moved = run(CODES)
        assert codes.names.tolist() == expected and codes.code.dtype == jnp.int32
        assert moved.tolist() == [False, True, False]
    assert jax.tree.map(lambda x: x[:2], CODES).names.tolist() == ["steady", "non_finite"]
    assert [leaf.dtype for leaf in jax.tree.leaves(CODES)] == [np.int32]


def test_the_first_condition_that_is_met_gives_the_code():
    cases = [([False, False, True], dln.RESULTS.diverged), ([False, True, True], dln.RESULTS.rank_lost)]
    found = code_of(*((jnp.array(condition), code) for condition, code in cases))
    assert found.names.tolist() == ["successful", "rank_lost", "diverged"]


def test_an_error_says_the_sentence_of_the_code_that_failed():
    tree = {"x": jnp.arange(3.0)}
    assert CODES.error_if(tree, np.zeros(3, bool)) is tree
    for run in (lambda code: code.error_if(tree, code != "steady"), jax.jit(lambda c: c.error_if(tree, c != "steady"))):
        with pytest.raises(RuntimeError, match=r"was NaN or infinite\. Check both there"):
            jax.block_until_ready(run(CODES))


def test_of_no_seeds_none_failed():
    tree = {"x": jnp.zeros(0)}
    run = jax.jit(lambda code: code.error_if(tree, code != "steady"))
    assert CODES[:0].error_if(tree, np.zeros(0, bool)) is tree and run(CODES[:0])["x"].shape == (0,)
    vmapped = jax.vmap(lambda code: code.error_if(code.code, code != "steady"))
    assert vmapped(CODES[:0]).shape == (0,)
    with pytest.raises(RuntimeError, match="was NaN or infinite"):
        jax.block_until_ready(vmapped(CODES))


def test_a_traced_code_has_no_name_yet():
    said = []
    jax.eval_shape(lambda code: said.append((repr(code), str(code))), CODES)
    assert said == [("RESULTS(traced)", "traced")]
    with pytest.raises(TypeError, match=r"a traced result has no name yet: look at it outside of jax\.jit"):
        jax.eval_shape(lambda code: code.names, CODES)
