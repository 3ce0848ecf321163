"""Arrays from `.npy`, `.npz` and `.safetensors` files, each checked against its header before memory is taken.

Nothing is unpickled: object arrays are refused. `.npy` and `.safetensors` are mapped, not read, so that data
larger than memory can be streamed; an `.npz` member is compressed, so it is read whole, at most `MAX_NPZ_BYTES`.
A header must describe exactly the bytes that follow it. Formats: NumPy's NEP 1 (versions 1 and 2), safetensors.
"""

from __future__ import annotations

import contextlib
import json
import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, get_args

import numpy as np
from safetensors import SafetensorError, safe_open

from ..ir.errors import InputError
from .preprocess import DataType

ARRAY_SUFFIXES = (".npy", ".npz", ".safetensors")
MAX_NPZ_BYTES = 4 * 2**30
_DTYPES = get_args(DataType)
_SAFETENSORS_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}
_CHUNK = 2**24


@dataclass(frozen=True, slots=True)
class _Header:
    """What a `.npy` stream declares; `offset` is where its data begin, in bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def array_names(path: Path) -> tuple[str, ...]:
    """The arrays in the file, in its order; the one array of an `.npy` file is called "".

    Raises:
        InputError: the file cannot be read or is not what its suffix says.
    """
    with _readable(path):
        match path.suffix.lower():
            case ".npy":
                return ("",)
            case ".npz":
                return tuple(_members(path))
            case _:
                with safe_open(path, framework="np") as file:
                    return tuple(file.keys())


def read_array(path: Path, name: str) -> np.ndarray:
    """The array called `name` (one of `array_names`), mapped read-only where the format allows it.

    Raises:
        InputError: a damaged file, a type other than bool, integers and floats up to 64 bits, a size that
            disagrees with the header, or an `.npz` member above `MAX_NPZ_BYTES`.
    """
    with _readable(path):
        match path.suffix.lower():
            case ".npy":
                return _map_npy(path)
            case ".npz":
                return _read_member(path, name)
            case _:
                return _map_safetensors(path, name)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, SafetensorError, EOFError) as error:
        raise InputError(
            f"{path} is damaged or is no {path.suffix.lower()} file ({error}): write it again"
        ) from error
    except (NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"{path} is encrypted or uses another compression than numpy ({error}): "
            "write it with numpy.savez or numpy.savez_compressed"
        ) from error


def _map_npy(path: Path) -> np.ndarray:
    with path.open("rb") as stream:
        header = _read_header(stream, str(path))
    _check_size(header, path.stat().st_size, str(path))
    if header.nbytes == 0:
        return np.empty(header.shape, header.dtype)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
    members = {info.filename.removesuffix(".npy"): info for info in infos}
    if len(members) != len(infos):
        raise InputError(f"{path} holds two arrays of the same name: write it again with numpy.savez")
    return members


def _read_member(path: Path, name: str) -> np.ndarray:
    where = f"array {name!r} of {path}"
    info = _members(path)[name]
    with zipfile.ZipFile(path) as archive, archive.open(info) as stream:
        header = _read_header(stream, where)
        _check_size(header, info.file_size, where)
        if header.nbytes > MAX_NPZ_BYTES:
            raise InputError(
                f"{where} takes {header.nbytes} bytes, and an .npz array is read whole, at most "
                f"{MAX_NPZ_BYTES} bytes: save it as .npy or .safetensors, which are mapped"
            )
        flat = np.empty(math.prod(header.shape), header.dtype)
        _fill(flat, stream, where)
    if header.fortran:
        return flat.reshape(header.shape[::-1]).transpose()
    return flat.reshape(header.shape)


def _fill(flat: np.ndarray, stream: IO[bytes], where: str) -> None:
    """Read exactly `flat`'s bytes; reading on to the end is what checks the member's CRC."""
    view = flat.view(np.uint8).data
    position = 0
    while chunk := stream.read(_CHUNK):
        view[position : position + len(chunk)] = chunk
        position += len(chunk)
    if position != len(view):
        raise InputError(f"{where} ends after {position} of {len(view)} bytes: write the file again")


def _read_header(stream: IO[bytes], where: str) -> _Header:
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version[0]}.{version[1]}, not 1.0 or 2.0")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a header from Python 2: read all the same
            shape, fortran, dtype = read(stream)
    except (ValueError, TypeError, SyntaxError, RecursionError, tokenize.TokenError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{where} has no valid .npy header ({reason}): write it with numpy.save") from error
    _check_dtype(dtype.name, where)
    if any(size < 0 for size in shape):
        raise InputError(f"{where} declares the shape {shape}: sizes cannot be negative; write the file again")
    return _Header(shape, fortran, dtype, stream.tell())


def _check_size(header: _Header, size: int, where: str) -> None:
    if header.offset + header.nbytes != size:
        raise InputError(
            f"{where} declares {header.dtype.name} of shape {header.shape}, {header.nbytes} bytes, but "
            f"{size - header.offset} bytes follow its header: the file is damaged; write it again"
        )


def _check_dtype(name: str, where: str) -> None:
    if name not in _DTYPES:
        raise InputError(f"{where} holds {name}; allowed: {', '.join(_DTYPES)}")


def _map_safetensors(path: Path, name: str) -> np.ndarray:
    """safetensors has checked that offsets, shapes and the file's size agree when `safe_open` returns."""
    with safe_open(path, framework="np"):
        pass
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entry = json.loads(stream.read(length))[name]
    dtype = _SAFETENSORS_DTYPES.get(entry["dtype"], entry["dtype"])
    _check_dtype(dtype, f"array {name!r} of {path}")
    shape = tuple(entry["shape"])
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    start = 8 + length + entry["data_offsets"][0]
    return np.memmap(path, mode="r", dtype=np.dtype(dtype).newbyteorder("<"), offset=start, shape=shape)
