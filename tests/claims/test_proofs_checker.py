"""The checker refuses false certificates, of each kind that would look like a proof."""

import json

import pytest

from dlnjax.claims.proofs import _checker as checker

UNTIL_2 = {"for all u": ["0", "2"], "cuts": ["0", "2"], "zeros": 0}


def certificate(shown, let=(), **more):
    step = {"says": "why", "let": dict(let), "show": [shown], **more}
    parts = {"where": "here", "statement": "of nothing", "note": "", "scope": "all", "true scope": "", "true": []}
    return {"claim": "a claim", "proof": "proven", "printed": [step], **parts}


def test_the_frame_of_the_false_certificates_is_accepted():
    assert not checker.check(certificate("f(1) == 2", {"f(x)": "2*x"}))
    assert not checker.check(certificate("D(x**2, x) == 2*x", variables=["x"]))
    assert not checker.check(certificate("D(u*e, u) > u", **UNTIL_2 | {"cuts": ["0", "1/2", "1", "3/2", "2"]}))


@pytest.mark.parametrize(
    "false",
    [
        certificate("2 > 1 > 5"),
        certificate("e > 1/2 > u", **UNTIL_2),
        certificate("1 > 0 and 1 > 2"),
        certificate("2 > 1 # and 1 > 2"),
        certificate("log(2, base=3) < 1"),
        certificate("f(1, y=5) == 1", {"f(x)": "x"}),
        certificate("\u0430 > 1", {"\u0430": "2"}),  # a Cyrillic letter
    ],
)
def test_what_would_be_read_in_part_alone_is_refused(false):
    assert checker.check(false)


@pytest.mark.parametrize(
    "shown",
    [
        "[[[1]]] == [[[2]]]",
        "[] == []",
        "[[]] == [[]]",
        "[[1, 0], [0, 1]] + 1 == [[2, 1], [1, 2]]",
        "[[1, 1], [2, 2]] == [1, 2]",
        "[[3, 2], [2, 3]] > [[1, 1], [1, 1]]",
        "[[1, 1], [1, 1]] == 1",
        "[[1], [1, 2]] == [[1], [1, 2]]",
        "trace([[1, 2, 3], [4, 5, 6]]) == 6",
        "log == log",
    ],
)
def test_what_is_neither_numbers_nor_matrices_of_a_size_is_refused(shown):
    assert checker.check(certificate(shown))


@pytest.mark.parametrize(
    "false",
    [
        certificate("log(2) > 1", {"log(x)": "x"}),
        certificate("pi > 4", {"pi": "5"}),
        certificate("f(1) == 2", {"f(x)": "x", "f(y)": "2*y"}),
        certificate("f(1, 2) == 2", {"f(x, x)": "x"}),
        certificate("x == 5", {"x": "5"}, variables=["x"]),
        certificate("u > 5", {"u": "7"}, **UNTIL_2),
        certificate("e > 5", {"e": "7"}, **UNTIL_2),
        certificate("D(x, x) == 0", variables=["x", "x"]),
        certificate("D(x, x) == 3", {"D(f, x)": "3*f/x"}, variables=["x"]),
        certificate("T + 1 == 1 + T", variables=["T"]),
    ],
)
def test_names_that_mean_two_things_are_refused(false):
    assert checker.check(false)


@pytest.mark.parametrize(
    "false",
    [
        certificate("D(x, x/2) == 1", variables=["x"]),  # is 2
        certificate("D(x, x/y) == 1", variables=["x", "y"]),
        certificate("D(e, u) < 1/2", **UNTIL_2),  # is e
        certificate("D(e, e) == 1", **UNTIL_2),
    ],
)
def test_derivatives_in_what_is_no_variable_are_refused(false):
    assert checker.check(false)


def test_a_remainder_beyond_the_longest_series_is_not_lost():
    # The order at 0 is so high that the remainder would be the coefficient after the last one that is kept.
    step = {"for all u": ["0", "1"], "cuts": ["0", "1"], "zeros": 52}
    assert checker.check(certificate("u**52 > 100*u**64", **step))
    assert not checker.check(certificate("u**51 > 1/100*u**62", **step | {"zeros": 51}))


@pytest.mark.parametrize(
    "shown",
    [
        "(u - 1)/(u - 1) > 0",  # is not defined at 1
        "1 + f(u) > 0",
        "e*(u - 1)**2/(u - 1)**2 > 0",
        "u + 1 > g*(u - 1)",
    ],
)
def test_a_divisor_that_may_vanish_in_the_interval_is_refused(shown):
    let = {"f(x)": "(x - 1)/(x - 1)", "g": "1/(u - 1)"}
    assert "may be 0" in checker.check(certificate(shown, let, **UNTIL_2))


def test_a_divisor_that_cancels_and_is_positive_is_accepted():
    assert not checker.check(certificate("(e**2 + u)/(e**2 + u) + u > 0", **UNTIL_2))
    before = {"for all u": ["-2", "2"], "cuts": ["-2", "2"]}
    assert checker.check(certificate("(u + 1)/(u + 1) > 0", **UNTIL_2 | before))


@pytest.mark.parametrize("shown", ["1/log(0) == 0", "-log(0) > 5", "1/(sqrt(2)**2 - 2) > 0"])
def test_balls_that_are_not_finite_prove_nothing(shown):
    assert checker.check(certificate(shown))


TRUE = certificate("2 > 1")


@pytest.mark.parametrize(
    "false",
    [
        TRUE | {"printed": []},
        TRUE | {"printed": [["says", "let", "show"]]},
        TRUE | {"printed": [], "true": TRUE["printed"], "true scope": "all"},
        TRUE | {"true scope": "all d"},
        TRUE | {"true": TRUE["printed"]},
        TRUE | {"proof": "proven beyond doubt"},
        TRUE | {"also": certificate("1 > 2")["printed"]},
        {key: part for key, part in TRUE.items() if key != "scope"},
        certificate("2 > 1", **{"for all v": ["0", "1"]}),
        certificate("2 > 1", also=["1 > 2"]),
        certificate("2 > 1", variables=[]),
        certificate("u + 1 > 0", variables=["u"], **UNTIL_2),
        TRUE | {"printed": [TRUE["printed"][0] | {"show": "1"}]},
        TRUE | {"printed": [TRUE["printed"][0] | {"says": ""}]},
    ],
)
def test_parts_that_are_missing_or_that_nothing_reads_are_refused(false):
    assert not checker.check(TRUE)
    assert checker.check(false)


def test_a_file_is_refused_and_the_next_one_is_read(tmp_path, capsys):
    twice = json.dumps(TRUE).replace('"show": ["2 > 1"]', '"show": ["1 > 2"], "show": ["2 > 1"]')
    for name, text in (("a", twice), ("b", "not JSON"), ("c", "[]"), ("d", json.dumps(TRUE))):
        (tmp_path / f"{name}.json").write_text(text)
    assert checker.main([str(file) for file in sorted(tmp_path.iterdir())]) == 1
    *refused, good = capsys.readouterr().out.splitlines()
    assert len(refused) == 3 and all("REFUSED" in line for line in refused) and good.endswith("all comparisons hold")
    assert checker.main([]) == 1  # Nothing is proven where no file is read.
