"""Arrays from the files that users keep points in: safetensors, npz, npy, csv."""

import os
import warnings
import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hmcompress.errors import NetworkError

_SHORT = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def read_arrays(path: str | os.PathLike, setting: str = "") -> dict[str, np.ndarray]:
    """Named arrays of a file, in its order. Raises NetworkError with the file's name, and which setting names it."""
    name, suffix = Path(path), Path(path).suffix.lower()
    if not name.is_file():
        raise NetworkError(f"{setting}there is no file {path}")
    try:
        if suffix == ".safetensors":
            arrays = {key: _array(tensor) for key, tensor in load_file(name).items()}
        elif suffix == ".npz":
            with np.load(name, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
        elif suffix == ".npy":
            arrays = {"x": np.load(name, allow_pickle=False)}
        elif suffix == ".csv":
            arrays = {"x": _csv(name)}
        else:
            raise NetworkError(f"{path}: points are read from .safetensors, .npz, .npy and .csv")
    except (OSError, ValueError, SafetensorError, EOFError, BadZipFile, zlib.error) as error:
        line = next(iter(str(error).splitlines()), "it is damaged")
        why = "it is no file of plain arrays" if "allow_pickle" in line else line
        raise NetworkError(f"{path} cannot be read: {why}") from None
    return {key: _native(array) for key, array in _checked(arrays, path).items()}


def _array(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor; those of dtypes that numpy lacks as float32."""
    return (tensor.float() if tensor.dtype in _SHORT else tensor).numpy()


def _native(array: np.ndarray) -> np.ndarray:
    """In a dtype that torch has: the machine's byte order, and no more than double precision."""
    wide = {"f": np.dtype(np.float64), "c": np.dtype(np.complex128)}.get(array.dtype.kind, array.dtype)
    return array.astype(wide if array.itemsize > wide.itemsize else array.dtype.newbyteorder("="), copy=False)


def _csv(path: Path) -> np.ndarray:
    """Numbers separated by commas, with a line of names above or without."""
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline()
    try:
        [float(cell) for cell in first.split(",")]
        skip = 0
    except ValueError:
        skip = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no rows is told as an error
        return np.loadtxt(path, delimiter=",", skiprows=skip, ndmin=2, encoding="utf-8-sig")


def _checked(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> dict[str, np.ndarray]:
    if not arrays:
        raise NetworkError(f"{path} holds no arrays")
    for key, array in arrays.items():
        if array.dtype.kind not in "fciub":
            raise NetworkError(f"{path}: {key} holds {array.dtype.name}, numbers are needed")
        if array.ndim == 0:
            raise NetworkError(f"{path}: {key} is a single number, arrays with one sample a row are needed")
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise NetworkError(f"{path}: {key} holds nan or inf")
    return arrays
