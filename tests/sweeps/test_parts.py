"""The words for parts of a sweep, which every message has."""

from dlnjax._sweeps.parts import of_parts


def test_parts_are_named_by_what_they_hold():
    assert of_parts({12: 2, 4: 4}) == "seeds 4 to 7, 12 to 13"
    assert of_parts({k: 16 for k in range(0, 112, 16)}, "pairs").endswith(", 64 to 79 and those of 2 more parts")
