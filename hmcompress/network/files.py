"""Arrays from the files that users keep points in: safetensors, npz, npy, csv."""

import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from hmcompress.errors import NetworkError


def read_arrays(path: str | os.PathLike, setting: str = "") -> dict[str, np.ndarray]:
    """Named arrays of a file, in its order. Raises NetworkError with the file's name, and which setting names it."""
    name, suffix = Path(path), Path(path).suffix.lower()
    if not name.is_file():
        raise NetworkError(f"{setting}there is no file {path}")
    try:
        if suffix == ".safetensors":
            arrays = load_file(name)
        elif suffix == ".npz":
            with np.load(name, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
        elif suffix == ".npy":
            arrays = {"x": np.load(name, allow_pickle=False)}
        elif suffix == ".csv":
            arrays = {"x": _csv(name)}
        else:
            raise NetworkError(f"{path}: points are read from .safetensors, .npz, .npy and .csv")
    except (OSError, ValueError, SafetensorError) as error:
        line = str(error).splitlines()[0]
        why = "it is no file of plain arrays" if "allow_pickle" in line else line
        raise NetworkError(f"{path} cannot be read: {why}") from None
    return _checked(arrays, path)


def _csv(path: Path) -> np.ndarray:
    """Numbers separated by commas, with a line of names above or without."""
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline()
    try:
        [float(cell) for cell in first.split(",")]
        skip = 0
    except ValueError:
        skip = 1
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
