"""Certificates: all of them prove what they say, and one that was changed is refused."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dlnjax as dln
from dlnjax._cli import main
from dlnjax.claims import proofs
from dlnjax.claims.proofs import _checker as checker, as_json, Certificate, certificates, Step
from dlnjax.claims.proofs._cuts import cut, NoProof

ROOT = Path(dln.__file__).parents[1]
# These are false by a flow, which no finite computation here decides.
MEASURED = {"Section 5.1, the least nuclear norm"}


@pytest.fixture(scope="module")
def written():
    """Every certificate, through JSON and back, as a file would hold it."""
    return {
        name: json.loads(json.dumps(as_json(certificate, dln.thesis[name])))
        for name, certificate in certificates().items()
    }


@pytest.mark.slow
def test_every_certificate_proves_what_it_says(written):
    assert not {name: wrong for name, entry in written.items() if (wrong := checker.check(entry))}


def test_certificates_agree_with_the_known_verdicts():
    for name, certificate in certificates().items():
        assert certificate.word == ("proven" if dln.thesis[name].expected == "holds" else "proven false"), name
        assert certificate.scope and certificate.printed and bool(certificate.true) == bool(certificate.true_scope), (
            name
        )


def test_every_statement_that_fails_is_proven_false_but_for_flows():
    fails = {name for name, claim in dln.thesis.items() if claim.expected == "fails"}
    assert {name for name in fails if proofs.word(name) != "proven false"} == MEASURED


def test_a_statement_without_a_certificate_is_measured():
    assert proofs.word("Section 5.1, the least nuclear norm") == "measured"


def turned(shown):
    """The comparison with the sign turned, and an identity with twice the right side."""
    left, sign, right = re.split("(==|<|>)", shown)
    return f"{left}== 2*({right}) + 0*({left})" if sign == "==" else f"{left}{'<' if sign == '>' else '>'}{right}"


@pytest.mark.long
def test_every_comparison_turned_round_is_refused(written):
    accepted = [
        shown
        for entry in written.values()
        for step in [*entry["printed"], *entry["true"]]
        for shown in step["show"]
        if checker.holds(step, turned(shown))
    ]
    # Where both sides are 0, twice the right side is the right side.
    assert not [shown for shown in accepted if not re.search(r"== (0|0\*\w+|\[\[0, 0\], \[0, 0\]\])$", shown)]


def test_a_counterexample_with_another_number_is_refused(written):
    entry = copy.deepcopy(written["Proof of Lemma 4.3.5, (4.46)-(4.47)"])
    assert entry["printed"][0]["show"][0] == "second(20, 1, log(20)) > cross(20, 1, log(20))"
    entry["printed"][0]["show"][0] = "second(9, 1, log(9)) > cross(9, 1, log(9))"
    assert "second(9" in checker.check(entry)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda step: step["cuts"].__setitem__(1, step["cuts"][-1]),
        lambda step: step.update(cuts=step["cuts"][:2]),
        lambda step: step.update(cuts=step["cuts"][1:]),
        lambda step: step.update(zeros=step["zeros"] - 1),
        lambda step: step.update(zeros=step["zeros"] + 1),
        lambda step: step["let"].update({"g(x, y, u)": "x/(x**2 - y**2) - 1/(3*x*u)"}),
        lambda step: step.update(show=[]),
        lambda step: step.update(cuts=["0", *reversed(step["cuts"][1:])]),
        lambda step: step["let"].update({"number(n)": "n", "#": "1"}),
        lambda step: step.pop("cuts"),
    ],
    ids=[
        "a long piece",
        "no middle",
        "no start",
        "an order less",
        "an order more",
        "another function",
        "nothing shown",
        "cuts in another order",
        "numbers of one's own",
        "no cuts",
    ],
)
def test_a_proof_on_the_half_line_with_a_change_is_refused(written, tamper):
    entry = copy.deepcopy(written["Lemma 4.3.6 (2)"])
    assert not checker.check(entry)
    tamper(entry["true"][0])
    assert checker.check(entry)


def test_an_identity_with_another_coefficient_is_refused(written):
    entry = copy.deepcopy(written["Proof of Lemma 4.3.5, (4.48)-(4.50), the algebra"])
    (step,) = entry["printed"]
    step["show"][2] = step["show"][2].replace("1/(i - j)**2", "4/(i - j)**2")
    assert "4/(i - j)**2" in checker.check(entry)


@pytest.mark.parametrize(
    "shown",
    [
        "e > 1 + u + u**2",  # false on (0, 1.79)
        "e**2 - 4*e + 4 > 0",  # touches 0 at log 2
        "u**2*(e - 2)**2 > -1/10**9 + 1/10**9",
        "u > 2*u",
        "100 > u",
        "u - u > 0",
    ],
)
def test_no_cuts_are_found_for_what_is_not_so(shown):
    with pytest.raises(NoProof):
        cut({"let": {}}, shown, "0", "infinity")


def test_intervals_end_where_they_say():
    step = {"let": {}} | {"show": ["u < 1"], "for all u": ["0", "1"]} | cut({"let": {}}, "u < 2", "0", "1")
    assert checker.holds(step, "u < 2")
    assert not checker.holds(step | {"for all u": ["0", "2"]}, "u < 2")
    assert not checker.holds(step | {"for all u": ["0", "infinity"]}, "u < 2")
    assert not checker.holds(step, "u < 1/2")
    # Without a zero at the start nothing but the ends says where the interval begins.
    assert not checker.holds(step | {"cuts": ["1/2", "1"], "zeros": 0}, "u < 2")


def test_expressions_are_parsed_and_not_run():
    for text in ("__import__('os') > 0", "(1).real > 0", "[x for x in 1] > 0", "1.5 > 0"):
        with pytest.raises((ValueError, KeyError)):
            checker.holds({"let": {}}, text)


def test_balls_that_touch_prove_nothing():
    assert not checker.holds({"let": {}}, "sqrt(2)**2 > 2")
    assert not checker.holds({"let": {}}, "sqrt(2)**2 == 2")
    assert not checker.holds({"let": {}}, "log(-1) < 1")
    assert checker.holds({"let": {}}, "sqrt(2)**2 > 2 - 1/10**60")


def test_checker_runs_where_dlnjax_is_not(written, tmp_path):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    entry = copy.deepcopy(written["Lemma 4.3.6 (2)"])
    good.write_text(json.dumps(entry))
    entry["printed"][0]["show"] = ["g(2, 1, log(2)) > g(1, 2, -log(2))"]
    bad.write_text(json.dumps(entry))
    assert not re.search(r"^\s*(from|import) (dlnjax|jax|numpy)", Path(checker.__file__).read_text(), re.MULTILINE)
    command = [sys.executable, "-I", checker.__file__, str(good), str(bad)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 1
    first, second = run.stdout.splitlines()
    assert first.endswith("good.json all comparisons hold") and "bad.json REFUSED" in second


def test_ten_lines_of_the_page_agree_on_the_numbers(written):
    page = (ROOT / "docs" / "ideas" / "proofs.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names = {}
    exec(code.split("\n\n\nstep = ")[0], names)
    tried = 0
    for entry in written.values():
        for step in [*entry["printed"], *entry["true"]]:
            text = json.dumps(step["show"]) + json.dumps(step["let"])
            if not {"variables", "for all u"} & set(step) and "[[" not in text:
                tried += 1
                assert names["proves"](step), step
                for shown in step["show"]:
                    wrong = f"{shown} + 1" if "==" in shown else turned(shown)
                    assert not names["proves"](step | {"show": [wrong]}), step
    assert tried > 5


def run(*argv):
    return main(["claims", "--prove", *argv])


def test_command_prints_a_table_and_json(capsys):
    assert run("--only", "Lemma 4.3.6") == 0
    out, error = capsys.readouterr()
    assert "proven false" in out and "all ratios, N = inf" in out and " 0." in out
    assert re.search(r"4 statements in .* s: 2 proven, 2 proven false", error)
    assert run("--only", "Lemma 4.3.6 (2)", "--only", "Section 5.1, the least", "--json") == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["proof"] for entry in entries] == ["proven false", "measured"]
    assert entries[0]["true_scope"] == "all ratios, N = inf" and entries[0]["seconds"] > 0
    assert entries[1]["scope"] == ""


def test_command_writes_certificates_with_their_checker(tmp_path, capsys):
    assert run("--only", "Lemma 4.3.6 (2)", "--out", str(tmp_path)) == 0
    folder = tmp_path / "certificates"
    assert {file.name for file in folder.iterdir()} == {"checker.py", "lemma-4.3.6-2.json"}
    entry = json.loads((folder / "lemma-4.3.6-2.json").read_text())
    assert entry["claim"] == "Lemma 4.3.6 (2)" and not checker.check(entry)


@pytest.mark.parametrize("step", [Step("of numbers", ("1 > 2",)), Step("for all u", ("u > 2",), for_all=("0", "1"))])
def test_command_fails_where_a_certificate_is_refused(step, capsys, monkeypatch):
    false = Certificate(claim="Lemma 4.3.6 (2)", word="proven false", scope="nothing", printed=(step,))
    monkeypatch.setitem(certificates(), "Lemma 4.3.6 (2)", false)
    assert run("--only", "Lemma 4.3.6 (2)") == 1
    out, error = capsys.readouterr()
    assert "refused" in out and "not proven" in error


def test_command_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dlnjax.claims.proofs._checker", None)
    monkeypatch.delattr(proofs, "_checker")
    assert run("--only", "Lemma 4.3.6 (2)") == 2
    assert "pip install 'python-flint>=0.9'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["draws", "seed"])
def test_command_refuses_options_of_draws(option, capsys):
    assert run(f"--{option}", "2") == 2
    assert f"leave out --{option}" in capsys.readouterr().err


def test_command_shows_the_whole_proof_of_a_few_statements(capsys):
    assert run("--only", "Lemma 4.3.6 (2)") == 0
    out = capsys.readouterr().out
    assert "g(2, 1, log(2)) < g(1, 2, -log(2))" in out and "for all u in (0, infinity)" in out
    assert "g(x, y, u) = x/(x**2 - y**2) - 1/(2*x*u)" in out
