"""Sweeps into a folder: the same numbers, killed and taken up again at any moment, and no foreign or damaged part."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest

import dlnjax as dln
from dlnjax._sweeps.folder import Store

# The last part is shorter than the others.
CHUNK, N, MANY, D, TS = 4, 22, 202, 2, [0.0, 0.5, 3.0]
LABELS = np.array([[1.0, -0.5], [0.3, 0.8]])
MASK = np.array([[True, False], [True, True]])


def draw(n):
    return np.eye(D) + 0.3 * np.random.default_rng(11).standard_normal((n, D, D))


def sweep(folder=None, n=N, labels=LABELS, starts=None, **options):
    # One method alone, as it is compiled in less time.
    options = {"ts": TS, "depth": 2.0, "chunk": CHUNK, "solver": diffrax.Dopri5(), "progress": False} | options
    energy = dln.MatrixCompletion(labels, MASK)
    starts = jnp.asarray(draw(n) if starts is None else starts)
    return dln.sweep(energy, starts, folder=folder, **options)


@pytest.fixture(scope="module")
def solution():
    return sweep()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder that nobody may change."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    sweep(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A finished folder to do with as one likes."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def record_of(folder):
    return json.loads((folder / "call.json").read_text())


def write_record(folder, **changes):
    (folder / "call.json").write_text(json.dumps(record_of(folder) | changes))


def receipts_of(folder):
    """The receipts in the order of their seeds."""
    found = [json.loads(path.read_text()) for path in (folder / "parts").glob("*.json")]
    return sorted(found, key=lambda receipt: receipt["first"])


def keep(folder, *parts):
    """Take the receipts of all other parts away."""
    for receipt in receipts_of(folder):
        if receipt["first"] // CHUNK not in parts:
            (folder / "parts" / f"{receipt['first']}.json").unlink()


def chunks_of(folder, part):
    """The files that hold the seeds of a part."""
    data = folder / "data.zarr"
    files = [p for p in data.glob("*/c/**/*") if p.is_file() and p.relative_to(data).parts[2] == str(part)]
    assert files, f"no files for part {part}"
    return files


def assert_same_data(actual, expected):
    assert set(actual.variables) == set(expected.variables)
    for name, variable in expected.variables.items():
        assert actual[name].dims == variable.dims and actual[name].dtype == variable.dtype
        np.testing.assert_array_equal(actual[name].values, variable.values, err_msg=name)


def test_folder_holds_the_dataset_of_the_sweep_in_memory(finished, solution):
    dataset, expected = sweep(finished), solution.to_xarray()
    names = np.array(dataset.result.attrs["flag_meanings"].split())
    assert dataset.result.dtype == np.int8
    assert dataset.result.attrs["flag_values"] == list(range(len(names)))
    np.testing.assert_array_equal(names[dataset.result.values], expected.result.values)
    assert_same_data(dataset.drop_vars("result"), expected.drop_vars("result"))
    assert dataset.attrs == expected.attrs
    for name in expected.drop_vars("result").variables:
        # What zarr calls the value of a missing entry is an attribute too.
        assert {k: v for k, v in dataset[name].attrs.items() if k != "_FillValue"} == expected[name].attrs


def test_load_makes_a_solution_of_a_folder(finished, solution):
    back = dln.load(finished)
    assert isinstance(back, dln.FlowSolution) and str(back) == str(solution)
    for name, value in solution.to_numpy().items():
        np.testing.assert_array_equal(back.to_numpy()[name], value)


def test_seeds_that_fail_keep_their_codes(tmp_path):
    starts = draw(N)
    starts[3], starts[9, 0, 1] = np.nan, np.inf
    dataset = sweep(tmp_path / "run", starts=starts)
    codes = np.array(dataset.result.attrs["flag_meanings"].split())[dataset.result.values]
    assert np.flatnonzero(codes == "non_finite").tolist() == [3, 9]
    assert dln.load(tmp_path / "run").to_numpy()["result"].tolist() == codes.tolist()
    # NaN of their own, and NaN in the starts, are no damage and no other call.
    assert_same_data(sweep(tmp_path / "run", starts=starts), dataset)


def test_folder_may_begin_with_a_tilde(tmp_path, monkeypatch, finished):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert_same_data(sweep("~/run"), sweep(finished))
    assert {path.name for path in tmp_path.iterdir()} == {"run"} and dln.load("~/run").t_end.shape == (N,)


def test_depths_of_the_seeds_are_coordinates_and_are_checked(tmp_path, solution):
    depths = np.linspace(1.0, 5.0, N)
    dataset = sweep(tmp_path / "run", depth=depths)
    assert dataset.coords["depth"].dims == ("seed",) and "depth" not in dataset.attrs
    np.testing.assert_allclose(dataset["depth"], depths, rtol=1e-15)
    assert dln.load(tmp_path / "run").depth.inverse_depth.tolist() == (1 / depths).tolist()
    assert solution.to_xarray().attrs["depth"] == 2.0
    flip(next(path for path in chunks_of(tmp_path / "run", 1) if "kernel_inverse_depth" in path.parts))
    with pytest.raises(ValueError, match="damaged: seeds 4 to"):
        dln.load(tmp_path / "run")


# A process that writes to the folder

HOLDER = """
import sys
from dlnjax._sweeps.folder import Store

store = Store(sys.argv[1], {"n": 3}, 1)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(folder):
    """Another process holds the lock of the folder, until it is killed."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], **pipes) as child:
        try:
            assert child.stdout.readline() == "held\n"
            yield child
        finally:
            child.kill()


@pytest.mark.slow
def test_a_folder_that_another_process_writes_to_is_refused(tmp_path):
    folder = tmp_path / "run"
    with held(folder) as child:
        message = rf"{folder} is being written by process {child.pid} on .* since 20\d\d-.*Wait until .* name another"
        with pytest.raises(ValueError, match=message):
            Store(folder, {"n": 3}, 1)
    # The process was killed, and nothing of it is in the way.
    with Store(folder, {"n": 3}, 1) as store:
        assert store.count == 0
        with pytest.raises(ValueError, match=rf"being written by process {os.getpid()} "):
            Store(folder, {"n": 3}, 1)
    Store(folder, {"n": 3}, 1).lock.release()


def test_a_call_that_fails_leaves_the_folder_unlocked(folder, monkeypatch):
    keep(folder, 0, 1)
    with pytest.raises(ValueError, match="another call"):
        sweep(folder, rtol=1e-7)
    with monkeypatch.context() as patch:
        patch.setattr("dlnjax._sweeps.run.Programs.__call__", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sweep(folder)
    assert len(sweep(folder)["seed"]) == N


# A process that is killed

CHILD = """
import sys
import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
sys.path.insert(0, sys.argv[1])
import test_store as this

this.sweep(sys.argv[2], n=this.MANY)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return sweep(folder, n=MANY)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(tmp_path_factory.mktemp("cache"))


def parts_of(folder):
    return [receipt["checksum"] for receipt in receipts_of(folder)]


def kill_after(folder, parts, wait, cache):
    """Begin or go on with the sweep in another process, and kill it `wait` seconds after it has `parts`."""
    here = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, here, str(folder)],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        deadline = time.monotonic() + 120
        while len(parts_of(folder)) < parts and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        _, errors = child.communicate()
    assert child.returncode == -signal.SIGKILL, errors


@pytest.mark.long
def test_killed_sweep_goes_on_where_it_stopped_and_ends_the_same(whole, cache, tmp_path):
    folder, total = tmp_path / "run", -(-MANY // CHUNK)
    waits = np.random.default_rng().uniform(0, 0.1, 2)
    done, written, kept = 0, {}, []
    for wait in waits:
        kill_after(folder, done + 2, wait, cache)
        parts = parts_of(folder)
        assert done + 2 <= len(parts) < total, "it must be killed on its way"
        assert parts[: len(kept)] == kept
        with pytest.raises(ValueError, match=rf"has {len(parts) * CHUNK} of {MANY} seeds"):
            dln.load(folder)
        # What was finished has not been touched since.
        assert all(path.stat().st_mtime_ns == at for path, at in written.items())
        done, kept = len(parts), parts
        written = {path: path.stat().st_mtime_ns for k in range(done) for path in chunks_of(folder, k)}
    resumed = sweep(folder, n=MANY)
    assert len(parts_of(folder)) == total and parts_of(folder)[:done] == kept
    assert all(path.stat().st_mtime_ns == at for path, at in written.items())
    assert_same_data(resumed, whole)
    assert dln.load(folder).t_end.shape == (MANY,)


def test_finished_folder_computes_nothing(folder, finished, monkeypatch):
    monkeypatch.setattr("dlnjax._sweeps.run.Programs.__call__", lambda *args: pytest.fail("computed again"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert_same_data(sweep(folder), sweep(finished))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    # The size of the chunk may be left to the folder.
    assert_same_data(sweep(folder, chunk=None), sweep(finished))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("done", [0, 2, 5])
@pytest.mark.parametrize("spoil", [truncate, flip, Path.unlink])
def test_half_written_part_is_computed_again(folder, finished, done, spoil):
    keep(folder, *range(done))
    for path in chunks_of(folder, done)[::2]:
        spoil(path)
    assert_same_data(sweep(folder), sweep(finished))
    assert record_of(folder) == record_of(finished) and receipts_of(folder) == receipts_of(finished)


def test_killed_before_the_first_part(folder, finished):
    keep(folder)
    shutil.rmtree(folder / "data.zarr" / "sigma")
    (folder / "data.zarr" / "zarr.json").write_text("{")
    assert_same_data(sweep(folder), sweep(finished))


def test_killed_while_the_first_record_is_written(tmp_path, finished):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "call.json.here.1.new").write_text('{"format": "dlnjax.sw')
    assert_same_data(sweep(folder), sweep(finished))


# What is refused

OTHER = [
    ({"rtol": 1e-7}, "rtol"),
    ({"atol": 1e-9}, "atol"),
    ({"labels": LABELS + 0.1}, "energy"),
    ({"labels": LABELS - 2.0 * ~MASK}, "energy"),
    ({"starts": draw(N) + 1e-6}, "starts"),
    ({"n": N - 1}, "n, starts"),
    ({"depth": 3.0}, "depth"),
    ({"ts": [0.0, 0.5, 2.0]}, "ts"),
    ({"stop": dln.Steady(1e-3)}, "stop"),
    ({"max_steps": 1000}, "max_steps"),
    ({"solver": dln.RungeKuttaChebyshev()}, "solver"),
    ({"coordinates": "matrix"}, "coordinates"),
    ({"observe": lambda point: point.sigma}, "observe"),
]


@pytest.mark.parametrize(("change", "named"), OTHER, ids=[" ".join(c) for c, _ in OTHER])
def test_folder_of_another_call_is_refused(finished, change, named):
    with pytest.raises(ValueError, match=rf"belongs to another call: .*{named}.*differ\. Name a new folder") as raised:
        sweep(finished, **change)
    assert str(finished) in str(raised.value)


def test_another_chunk_is_refused(finished):
    with pytest.raises(ValueError, match=r"begun with chunk=4, got chunk=5\. Leave it out"):
        sweep(finished, chunk=5)


def test_folder_of_another_version_is_refused(folder):
    write_record(folder, format="dlnjax.sweep/0")
    for call in (sweep, dln.load):
        with pytest.raises(ValueError, match=r"written as 'dlnjax\.sweep/0', and this version writes"):
            call(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"call": {}}', '{"format": "dlnjax.sweep/3"}'])
def test_damaged_record_is_refused(folder, text):
    (folder / "call.json").write_text(text)
    for call in (sweep, dln.load):
        with pytest.raises(ValueError, match=r"call\.json is damaged"):
            call(folder)


def test_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear reader")
    with pytest.raises(ValueError, match=r"not empty and holds no sweep\. Name a new folder"):
        sweep(tmp_path)
    with pytest.raises(ValueError, match=r"no folder of a sweep"):
        dln.load(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("below", [False, True])
def test_folder_that_cannot_be_written_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot write to .*file.*name another folder"):
        sweep(tmp_path / "file" / "run" if below else tmp_path / "file")


@pytest.mark.parametrize("spoil", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("part", [1, 5])
def test_damaged_part_is_not_loaded_and_is_computed_again(folder, finished, part, spoil):
    spoil(next(path for path in chunks_of(folder, part) if "sigma" in path.parts))
    with pytest.raises(ValueError, match=rf"damaged: seeds {part * CHUNK} to .*Repeat the call that began it"):
        dln.load(folder)
    with pytest.warns(UserWarning, match=rf"seeds {part * CHUNK} to \d+ are not as they were .* computed again"):
        assert_same_data(sweep(folder), sweep(finished))
    assert receipts_of(folder) == receipts_of(finished) and dln.load(folder).t_end.shape == (N,)


@pytest.mark.filterwarnings("ignore:Object at u is not recognized")
@pytest.mark.parametrize("lost", ["data.zarr", "data.zarr/u", "data.zarr/zarr.json", "data.zarr/u/zarr.json"])
def test_folder_that_lacks_a_piece_is_not_loaded_and_is_computed_again(folder, finished, lost):
    piece = folder / lost
    shutil.rmtree(piece) if piece.is_dir() else piece.unlink()
    with pytest.raises(ValueError, match=r"damaged: seeds 0 to .* and those of 1 more part are not"):
        dln.load(folder)
    with pytest.warns(UserWarning, match="computed again"):
        assert_same_data(sweep(folder), sweep(finished))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"first": 4, "count": 4}', '{"first": 0, "count": 4, "checksum": 1}'])
def test_part_without_a_whole_receipt_does_not_count(folder, finished, text):
    (folder / "parts" / "4.json").write_text(text)
    with pytest.raises(ValueError, match=rf"has {N - CHUNK} of {N} seeds"):
        dln.load(folder)
    assert_same_data(sweep(folder), sweep(finished))
    assert receipts_of(folder) == receipts_of(finished)


@pytest.mark.parametrize("there", [(0, 2, 5), (5,), (1, 3)])
def test_sweep_goes_on_from_any_parts(folder, finished, there):
    keep(folder, *there)
    untouched = {path: path.stat().st_mtime_ns for part in there for path in chunks_of(folder, part)}
    assert_same_data(sweep(folder), sweep(finished))
    assert all(path.stat().st_mtime_ns == at for path, at in untouched.items())


@pytest.mark.parametrize("done", [0, 3, 6])
def test_folder_of_the_older_format_is_loaded_and_taken_up(folder, finished, done):
    checksums = [receipt["checksum"] for receipt in receipts_of(folder)[:done]]
    shutil.rmtree(folder / "parts")
    old = {"format": "dlnjax.sweep/2", "call": record_of(folder)["call"], "chunk": CHUNK if done else None}
    (folder / "call.json").write_text(json.dumps(old | {"parts": checksums}))
    if done == 6:
        assert str(dln.load(folder)) == str(dln.load(finished))
    else:
        with pytest.raises(ValueError, match=rf"has {done * CHUNK} of {N} seeds"):
            dln.load(folder)
    assert_same_data(sweep(folder), sweep(finished))
    assert str(dln.load(folder)) == str(dln.load(finished))


def test_every_byte_counts(folder):
    """A flipped byte anywhere in a finished part is found, or changes no number. The part is then computed again."""
    expected, loaded = sweep(folder).load(), str(dln.load(folder))
    for path in chunks_of(folder, 2):
        original = path.read_bytes()
        flip(path)
        try:
            assert str(dln.load(folder)) == loaded
        except ValueError as error:
            assert "damaged" in str(error)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*seeds 8 to 11 are not as they were written")
            assert_same_data(sweep(folder), expected)
        path.write_bytes(original)


def test_unfinished_folder_is_not_loaded(folder):
    keep(folder, 0, 1, 2)
    with pytest.raises(ValueError, match=rf"has {3 * CHUNK} of {N} seeds\. Repeat the call that began it"):
        dln.load(folder)


def test_what_is_not_written_yet_takes_no_room_and_is_missing(solution, tmp_path):
    many = 10_000_000
    store = Store(tmp_path / "run", {"n": many}, N)
    store.begin(N, N)
    store.write(0, solution.to_xarray())
    data = store.open().isel(seed=[N - 1, N, many - 1])
    assert data["result"].values.tolist() == [0, -1, -1] and data["steps"].values[1:].tolist() == [-1, -1]
    assert np.isfinite(data["sigma"].values).all((1, 2)).tolist() == [True, False, False]
    assert sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file()) < 1e6
