"""What loading a file executes: nothing, whatever is in it."""

import pickle
import shutil
from argparse import Namespace
from pathlib import Path

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import dlnjax as dln
from dlnjax._commands._common import Refused
from dlnjax._commands._plot import plot

ENERGY = dln.Schatten(2.0)
HOW = {"ts": [0.0, 1.0], "solver": diffrax.Dopri5()}


class Harm:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def harm(tmp_path):
    """A path that must never come to be."""
    yield tmp_path / "harm"
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["flow.nc", "4.2a.nc"])
def test_pickle_by_the_name_of_a_file_is_refused(tmp_path, harm, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Harm(harm)))
    with pytest.raises(ValueError, match="cannot read"):
        dln.load(path)


def test_pickle_by_the_name_of_a_figure_is_not_drawn(tmp_path, harm):
    path = tmp_path / "4.2a.nc"
    path.write_bytes(pickle.dumps(Harm(harm)))
    with pytest.raises(Refused):
        plot(Namespace(data=[path]))


@pytest.mark.long
def test_words_in_a_file_are_no_attributes_to_look_up(tmp_path):
    sol = dln.gradient_flow(ENERGY, jnp.eye(2), **HOW)
    data = sol.to_xarray()
    data["result"] = xarray.DataArray(np.array("__class__"))
    data.to_netcdf(tmp_path / "flow.nc", engine="scipy", format="NETCDF3_64BIT")
    with pytest.raises(ValueError, match="no codes of RESULTS: __class__"):
        dln.load(tmp_path / "flow.nc")


@pytest.mark.long
def test_folder_in_the_format_that_can_hold_pickles_is_refused(tmp_path, harm):
    starts = jnp.eye(2) + 0.1 * jnp.arange(8.0).reshape(2, 2, 2)
    data = dln.sweep(ENERGY, starts, folder=tmp_path / "run", progress=False, **HOW).load()
    assert dln.load(tmp_path / "run").sigma.shape == (2, 2, 2)
    shutil.rmtree(tmp_path / "run" / "data.zarr")
    for name in data.variables:
        data[name].encoding = {}
    # The same numbers and checksums.
    data.to_zarr(tmp_path / "run" / "data.zarr", zarr_format=2, consolidated=False)
    with pytest.raises(ValueError, match="damaged"):
        dln.load(tmp_path / "run")
