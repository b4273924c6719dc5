"""The statements of the thesis and those beyond it: measured verdicts are the known ones, and each check can fail."""

import dataclasses
import html
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest
from support.tampering import tamper_table

import dlnjax as dln
from dlnjax._cli import main
from dlnjax.claims import _noise, Claim
from dlnjax.claims._claim import NO_DEPTH
from dlnjax.claims._verdicts import errata

ROOT = Path(dln.__file__).parents[1]
NAMES = list(dln.thesis)
# These compile a flow or a geodesic, or search long: `make long` has them.
SLOW = {
    *("Theorem 3.1.2", "Theorem 2.2.2", "(3.37)", "Theorem 3.3.2", "Corollary 4.1.3.1, X stays diagonal"),
    *("Theorem 4.3.7, (4.70)", "Section 4.3, completion with entropy", "Lemma 4.3.4"),
    *("Section 4.2, full rank", "Section 4.2, lazy singular values", "Section 4.2, rank one needs a small start"),
    *("Section 4.3, spread out", "Section 5.1, the least nuclear norm"),
    *(name for name in NAMES if name.startswith(("B1", "B2", "B3"))),
}
QUICK = [name for name in NAMES if name not in SLOW]


def test_verdicts_are_those_that_are_known(module_key):
    verdicts = [dln.thesis[name].check(module_key, draws=1) for name in QUICK]
    assert not [str(verdict) for verdict in verdicts if not verdict.as_expected]


@pytest.mark.long
def test_all_verdicts_are_those_that_are_known(key):
    verdicts = [claim.check(key) for claim in dln.thesis.values()]
    assert not [str(verdict) for verdict in verdicts if not verdict.as_expected]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
def test_verdicts_are_the_same_for_other_keys_and_depths(seed):
    key = jax.random.fold_in(jax.random.key(2026), seed)
    depths = (4.0, 7.0, 31.5) if seed % 2 else None
    verdicts = [claim.check(key, draws=1, depths=depths) for claim in dln.thesis.values()]
    assert not [str(verdict) for verdict in verdicts if not verdict.as_expected]


def test_every_claim_has_a_tampered_version():
    assert not [name for name, claim in dln.thesis.items() if not claim.tampered]


def test_tampered_versions_turn_the_verdict(module_key):
    chosen = [dln.thesis[name] for name in QUICK if dln.thesis[name].chapter in (1, 2, "beyond")]
    rows = tamper_table(module_key, chosen, draws=1)
    assert not [row for row in rows if not row.caught]


@pytest.mark.long
def test_every_tampered_version_turns_the_verdict(module_key):
    rows = tamper_table(module_key, dln.thesis.values())
    assert len(rows) > len(NAMES)
    assert not [row for row in rows if not row.caught]


def test_names_follow_the_thesis():
    *chapters, beyond = dict.fromkeys(claim.chapter for claim in dln.thesis.values())
    assert chapters == sorted(chapters) and beyond == "beyond"
    assert all(name.startswith("B") == (claim.chapter == beyond) for name, claim in dln.thesis.items())
    assert len(NAMES) == len(set(NAMES))
    numbered = {"(2.10)", "Theorem 2.2.1", "Lemma 2.2.7", "(3.37)", "Theorem 3.4.2 (2)", "Theorem 4.3.7, (4.70)"}
    assert numbered <= set(NAMES)
    ordered = ["(4.26)", "(4.27)", "Section 4.3, high volume", "Lemma 4.3.2, (4.31)-(4.32)", "(4.53)", "(4.54)-(4.55)"]
    ordered += ["Lemma 4.3.6 (1)", "Theorem 4.3.7, (4.70)", "(4.71)", "Remark 4.3.8, (4.78)"]
    assert sorted(ordered, key=NAMES.index) == ordered
    assert all(claim.statement and claim.where for claim in dln.thesis.values())
    assert all(claim.note for claim in dln.thesis.values() if claim.expected != "holds")


def test_statements_beyond_the_thesis_have_a_place_of_their_own(capsys, monkeypatch):
    beyond = [name for name in NAMES if name.startswith("B")]
    assert beyond == NAMES[-len(beyond) :] == sorted(beyond) and f"{len(beyond)} beyond it" in repr(dln.thesis)
    # A claim that needs no paths stands for one that does.
    quick = dataclasses.replace(claim_of(lambda at: 1.0, expected="fails"), where="Beyond the thesis, B1: noise")
    for name in beyond:
        monkeypatch.setitem(dln.thesis._claims, name, dataclasses.replace(quick, name=name))
    assert run("--chapter", "beyond", "--json") == 0
    assert {(entry["name"], entry["chapter"]) for entry in json.loads(capsys.readouterr().out)} == {
        (name, "beyond") for name in beyond
    }
    page = errata([dln.thesis["(2.10)"].check(jax.random.key(0)), quick.check(jax.random.key(0))])
    assert page.index("## Beyond the thesis") > page.index("## Chapter 2")


def test_simulations_with_mistakes_are_caught_for_their_mistakes():
    """Without its mistake Euler's method in X passes, up to the bias that it has at infinite depth."""
    at = _noise.start(jax.random.key(5), 3.0)
    for error in (_noise.law_error, _noise.means_error):
        assert error(at, _noise.euler) < _noise.WITHIN
        assert error(at, lambda at: _noise.euler(at, 0.0)) > _noise.APART
        assert error(at, _noise.euler_in_frame) > _noise.APART


def test_a_name_that_is_not_there_says_what_is():
    with pytest.raises(KeyError, match=r"Theorem 2.2.1"):
        dln.thesis["theorem 2.2.1"]


def test_the_package_says_where_its_mapping_is_now():
    with pytest.raises(TypeError, match=r"dlnjax\.thesis\['\(2\.10\)'\]"):
        dln.claims["(2.10)"]
    for use in (list, lambda claims: "(2.10)" in claims):
        with pytest.raises(TypeError, match=r"their mapping is dlnjax\.thesis"):
            use(dln.claims)
    with pytest.raises(AttributeError, match=r"dlnjax\.thesis\.values"):
        dln.claims.values()
    assert not hasattr(dln.claims, "nothing")


def square(key, depth):
    return {"x": jax.random.uniform(key, (), minval=0.5, maxval=2.0)}


def claim_of(printed, *, expected="holds", **others):
    return Claim(
        name="A",
        statement="x^2 = x",
        where="Section 1.1",
        expected=expected,
        draw=square,
        printed=printed,
        tampered=(("", printed),),
        depths=NO_DEPTH,
        **others,
    )


@pytest.mark.parametrize(
    "printed, others, word",
    [
        (1e-12, {}, "holds"),
        (-1.0, {}, "holds"),
        (1e-6, {}, "undecided"),
        (1.0, {}, "fails"),
        (1.0, {"corrected": lambda at: 1e-12}, "corrected"),
        (1.0, {"corrected": lambda at: 1.0}, "fails"),
        (1.0, {"corrected": lambda at: 1e-6}, "undecided"),
        (1.0, {"instead": lambda at: 1e-12}, "fails"),
        (1.0, {"instead": lambda at: 1.0}, "undecided"),
        (1e-12, {"attack": lambda key, depth: (1.0, {"x": 2.0})}, "fails"),
    ],
)
def test_the_verdict_follows_from_the_errors(key, printed, others, word):
    assert claim_of(lambda at: printed, **others).check(key).word == word


def test_not_a_number_is_undecided_and_loud(key):
    with pytest.warns(RuntimeWarning, match="NaN"):
        verdict = claim_of(lambda at: math.nan).check(key)
    assert verdict.word == "undecided"
    assert not verdict.as_expected


def test_the_counterexample_is_the_example_by_hand(key):
    error = lambda at: abs(at["x"] ** 2 - at["x"])
    # Neither the worst nor the one with fewest digits.
    example = {"x": 1.0123456789}
    verdict = claim_of(error, expected="fails", examples=({"x": 1.0}, example)).check(key, draws=4)
    assert verdict.counterexample == example
    assert "false by 0.012 at x = 1.01235" in str(verdict)
    verdict = claim_of(error, expected="fails").check(key)
    assert error(verdict.counterexample) > 1e-3


def test_a_key_that_is_none_is_refused():
    # As users have it, without the annotation checks of the tests.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(TypeError, match=r"jax\.random\.key"):
            dln.thesis["(2.6)"].check(0)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_errata_are_not_stale(key):
    """The page does not depend on draws: the examples alone give it, where there are any."""
    wrong = (claim for claim in dln.thesis.values() if claim.expected != "holds")
    verdicts = [claim.check(key, draws=0 if claim.examples else 1) for claim in wrong]
    assert errata(verdicts) == (ROOT / "docs" / "errata.md").read_text(), "dlnjax claims --errata docs/errata.md"


def commutes(a, b):
    return a @ b


def test_check_gives_the_worst_error_of_a_true_conjecture(key):
    found = dln.check(
        lambda x, p: dln.metric_operator(x, p, 2.0),
        lambda x, p: (x @ p + p @ x) / 2,
        {"x": "positive", "p": "matrix"},
        key=key,
        sizes=(2,),
        tries=4,
    )
    assert found and found.word == "holds"
    assert found.error < 1e-12
    assert found.tried == 8


def test_check_refutes_a_false_conjecture_by_the_smallest_instance(key):
    found = dln.check(commutes, lambda a, b: b @ a, {"a": "matrix", "b": "matrix"}, key=key)
    assert not found and found.word == "fails"
    # Numbers commute: it takes matrices of size 2, and whole numbers do.
    assert found.instance["a"].shape == (2, 2)
    assert np.array_equal(found.instance["a"], np.round(found.instance["a"]))
    assert not np.allclose(found.lhs, found.rhs)
    assert "fails" in str(found)


def test_check_shows_the_counterexample_of_fewest_digits(key):
    found = dln.check(lambda n: n, lambda n: 1.0, {"n": [1.0, 12345.0, 2.0, 6789.0]}, key=key)
    assert found.instance == {"n": 2.0}


def test_check_of_an_inequality(key):
    draws = {"a": "positive", "b": "positive"}
    trace, det = (lambda a, b: np.trace(a @ b)), (lambda a, b: np.trace(a) * np.trace(b))
    assert dln.check(trace, det, draws, key=key, relation="<=")
    assert not dln.check(det, trace, draws, key=key, relation="<=")


def test_check_is_undecided_where_a_side_is_not_a_number(key):
    found = dln.check(lambda x: np.array(math.nan), lambda x: x, {"x": [1.0, 2.0]}, key=key)
    assert found.word == "undecided" and "not a number" in str(found)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"draws": {"s": "spectra"}}, ValueError, "one of matrix"),
        ({"draws": {"s": 3}}, TypeError, "a kind, a list"),
        ({"draws": {"x": "spectrum"}}, TypeError, "function of the arguments"),
        ({"draws": "spectrum"}, TypeError, "what each argument is"),
        ({"lhs": 3}, TypeError, "lhs must be a function"),
        ({"rhs": lambda s: s[:1] if len(s) > 1 else s}, ValueError, "one shape"),
        ({"relation": "<"}, ValueError, "relation"),
        ({"tries": 0}, ValueError, "tries"),
        ({"sizes": (0,)}, ValueError, "sizes"),
        ({"sizes": ()}, ValueError, "at least one size"),
        ({"key": 1}, TypeError, "key"),
    ],
)
def test_check_refuses(change, error, message):
    good = {"lhs": lambda s: s, "rhs": lambda s: s, "draws": {"s": "spectrum"}, "tries": 1}
    with pytest.raises(error, match=message):
        dln.check(**(good | change))


@pytest.mark.long
def test_the_examples_of_the_docs_print_what_they_say(capsys):
    text = (ROOT / "docs" / "check.md").read_text()
    codes, outputs = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "text"))
    for code, output in zip(codes, outputs, strict=True):
        exec(code, {})
        assert capsys.readouterr().out == output


def run(*argv):
    return main(["claims", *argv])


def test_command_prints_one_statement_in_full(capsys):
    assert run("--only", "Lemma 2.2.7", "--draws", "1") == 0
    out = capsys.readouterr().out
    assert "corrected" in out and "They depend on s" in out and "false by" in out
    assert "\x1b" not in out


def test_command_prints_a_table_and_json(capsys):
    assert run("--chapter", "2", "--only", "(2", "--draws", "1") == 0
    out = capsys.readouterr().out
    assert "(2.10)" in out and "Theorem" not in out.splitlines()[1]
    assert run("--only", "(2.10)", "--json", "--seed", "3") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["verdict"] == entry["expected"] == "corrected"
    assert entry["printed"] > 1e-3 > entry["corrected"]


def test_command_fails_where_a_verdict_is_not_expected(capsys, monkeypatch):
    claim = dln.thesis["(2.10)"]
    (_, tampered), *_ = claim.tampers()
    monkeypatch.setitem(dln.thesis._claims, "(2.10)", tampered)
    assert run("--only", "(2.10)") == 1
    assert "corrected is expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--chapter", "9"], "no statement of chapter 9. There are: 1, 2, 3, 4, 5, beyond"),
        (["--chapter", "last"], "must be a whole number or beyond"),
        (["--only", "2.2.1"], "Did you mean Theorem 2.2.1"),
        (["--only", "Lemma 2.2.7", "--chapter", "3"], "leave out --chapter"),
        (["--depth", "0.5"], "at least 1"),
        (["--errata", "x.md", "--chapter", "2"], "leave out"),
    ],
)
def test_command_refuses(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 2
    assert message in capsys.readouterr().err


def test_command_writes_a_page_that_needs_no_other(tmp_path, capsys):
    assert run("--only", "(2.1", "--depth", "3", "--draws", "1", "--out", str(tmp_path)) == 0
    page = (tmp_path / "claims.html").read_text()
    assert html.unescape(page).count("<code>dlnjax claims --only '(2.1' --depth 3.0 --draws 1</code>") == 1
    assert "(2.10)" in page and "Counterexample" in page and "corrected: 2" in page
    assert "http" not in page and "src=" not in page
    assert {entry["name"] for entry in json.loads((tmp_path / "claims.json").read_text())} == {"(2.10)", "(2.11)"}


def test_the_table_of_tampered_versions_prints():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "support" / "tampering.py"), "(2.1"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.splitlines()[-1] == "2 claims, 3 tampered versions, 3 caught"
