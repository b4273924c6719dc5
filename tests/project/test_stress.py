"""A fixed share of `stress/flows.py`: no seed is lost, and the error is that of the tolerance."""

import numpy as np
import pytest
from stress import flows as stress
from stress.section import write_rows, write_section

CASES = [
    *(("random mask", 2, rtol) for rtol in (1e-3, 1e-8)),
    *(("sensing", 5, rtol) for rtol in (1e-2, 1e-6)),
]


@pytest.mark.long
@pytest.mark.optimised
def test_no_seed_is_lost_and_none_is_wrong():
    # In X only the smaller: it is one compilation more.
    seeds = [s for case in stress.run_cases(CASES, seed=0, largest=2) for s in case]
    assert len(seeds) == len(CASES) * stress.SEEDS
    assert [s for s in seeds if s.lost] == []
    assert {s.start for s in seeds} == set(stress.STARTS) and {s.depth for s in seeds} == set(stress.DEPTHS)
    for case in range(len(CASES)):
        errors = [s.error for s in seeds if s.case == case]
        assert np.mean(errors) < stress.MOST
    assert sum(s.reference == "X" for s in seeds) > stress.SEEDS
    assert stress.summary(seeds)[1]


def test_table_tells_a_lost_seed_and_a_wrong_one():
    seed = stress.Seed("diagonal", 2, 1e-6, 2.0, "identity", 0, 0, "", 1.0, "X")
    assert stress.summary([seed])[1]
    for wrong in (seed._replace(lost="rank_lost"), seed._replace(error=101.0)):
        table, good = stress.summary([wrong])
        assert not good and "| diagonal | 1 | 1 |" in table


def test_a_table_replaces_its_own_section_and_no_other(tmp_path):
    path = tmp_path / "stress.md"
    for title, text in (("a", "first"), ("b", "second\n"), ("a", "third")):
        write_section(path, title, text)
    assert path.read_text("utf-8") == "# Stress\n\n**a**\n\nthird\n\n**b**\n\nsecond\n"


def test_a_row_replaces_the_one_of_its_cell_and_no_other(tmp_path):
    path = tmp_path / "cells.md"
    table = lambda *rows: "\n".join(["| pairs | d | ms |", "|---|--:|--:|", *(f"| {row} |" for row in rows)])
    write_rows(path, table("a | 2 | 1", "b | 2 | 5"), 2)
    path.write_text(f"# Cells\n\n{path.read_text('utf-8')}\nTimes of 2020.\n", "utf-8")
    write_rows(path, table("a | 3 | 7", "b | 2 | 6", "c | 2 | 4"), 2)
    assert path.read_text("utf-8") == (
        f"# Cells\n\n{table('a | 2 | 1', 'a | 3 | 7', 'b | 2 | 6', 'c | 2 | 4')}\n\nTimes of 2020.\n"
    )
