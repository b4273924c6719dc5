"""How long a move of each control takes until the answer is on the screen: python tests/explore/latency.py

The median and the worst of some moves of each control, at each size of the matrices, in milliseconds. The first line of
a size has the time in which its programs are compiled, or read from the disk.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.explorer import chromium, Explorer, served

VALUES = {
    "depth": (0, 6, 12, 20, 30, 40, 60, 10),
    "std": (-3, -2, -1.5, -1, -0.5, 0, 0.3),
    "t": (1, 2, 3, 4, 5, 6),
    "cursor": (10, 20, 30, 40, 50, 60),
    "seed": (3, 33, 53, 73, 93),
    "energy": ("rank-one", "random", "decay", "diagonal"),
    "g": (-2, -1, -0.3, 0.3, 1, 2),
    "beta": (-1, -2, 0, -3, -1.5),
    "step": (-2, -1.5, -1, -0.5),
}
# What else is set before a control is moved.
FIRST = {"g": {"depth": 30}, "beta": {"t": 1, "depth": 15}, "step": {"depth": 20, "t": 2}}


def measured(page, address, d):
    began = time.perf_counter()
    page.open(f"{address}?d={d}")
    print(f"d = {d}: all is there {time.perf_counter() - began:.1f} s after the page was opened")
    for name, values in VALUES.items():
        page.press("reset")
        page.move("d", str(d))
        for other, value in FIRST.get(name, {}).items():
            page.move(other, value)
        took = [page.move(name, value) for value in values]
        print(f"| {d} | {name} | {median(took):.0f} | {max(took):.0f} |", flush=True)
    page.press("reset")
    page.move("d", str(d))
    took = [page.click("matrix", 0.2 + 0.1 * k, 0.3) for k in range(6)]
    print(f"| {d} | click on the mask | {median(took):.0f} | {max(took):.0f} |")
    took = [page.click("depth_map", 0.2 + 0.1 * k, 0.2 + 0.1 * k) for k in range(6)]
    print(f"| {d} | click on the map | {median(took):.0f} | {max(took):.0f} |", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as address, chromium() as browser:
        page = Explorer(browser)
        for size in sys.argv[1:] or ("2", "5", "10", "20"):
            measured(page, address, size)
