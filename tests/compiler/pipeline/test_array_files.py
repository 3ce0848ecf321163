import io
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.pipeline import array_files
from fxedge.compiler.pipeline.array_files import array_names, read_array
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
ALLOWED = "bool, uint8, int8, uint16, int16, int32, int64, float16, float32, float64"


def npy_bytes(array: np.ndarray, **header: object) -> bytes:
    """`array` as an .npy file, with some header entries replaced by lies."""
    buffer = io.BytesIO()
    fields = np.lib.format.header_data_from_array_1_0(array) | header
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue() + array.tobytes("A")


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def failure(path: Path, name: str = "x") -> str:
    with pytest.raises(InputError) as caught:
        read_array(path, name)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ALLOWED.split(", "))
def test_every_format_gives_back_every_allowed_type(tmp_path: Path, dtype: str):
    array = (X % 2).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", x=array, other=X)
    save_file({"x": array, "other": X}, tmp_path / "a.safetensors")
    for suffix, name in ((".npy", ""), (".npz", "x"), (".safetensors", "x")):
        path = tmp_path / f"a{suffix}"
        assert name in array_names(path)
        result = read_array(path, name)
        assert result.dtype == array.dtype
        np.testing.assert_array_equal(result, array)


def test_fortran_order_big_endian_scalar_and_empty_arrays(tmp_path: Path):
    arrays = {"f": np.asfortranarray(X), "b": X.astype(">f4"), "s": np.array(3.0), "e": np.empty((0, 5))}
    np.savez(tmp_path / "a.npz", **arrays)
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        np.testing.assert_array_equal(read_array(tmp_path / "a.npz", name), array)
        np.testing.assert_array_equal(read_array(tmp_path / f"{name}.npy", ""), array)
    save_file({"e": arrays["e"]}, tmp_path / "e.safetensors")
    assert read_array(tmp_path / "e.safetensors", "e").shape == (0, 5)


def test_npy_and_safetensors_are_mapped_not_read(tmp_path: Path):
    np.save(tmp_path / "a.npy", X)
    save_file({"x": X}, tmp_path / "a.safetensors")
    assert isinstance(read_array(tmp_path / "a.npy", ""), np.memmap)
    assert isinstance(read_array(tmp_path / "a.safetensors", "x"), np.memmap)


def test_object_arrays_are_never_unpickled(tmp_path: Path):
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "a.npz", x=objects)
    np.save(tmp_path / "a.npy", objects)
    assert failure(tmp_path / "a.npz") == f"array 'x' of {tmp_path / 'a.npz'} holds object; allowed: {ALLOWED}"
    assert failure(tmp_path / "a.npy") == f"{tmp_path / 'a.npy'} holds object; allowed: {ALLOWED}"


def test_a_declared_size_must_be_the_real_one(tmp_path: Path):
    content = npy_bytes(X, shape=(10**12, 3, 4))
    path = npz(tmp_path / "a.npz", x=content)
    rest = (
        " declares float32 of shape (1000000000000, 3, 4), 48000000000000 bytes, but 96 bytes follow its header: "
        "the file is damaged; write it again"
    )
    assert failure(path) == f"array 'x' of {path}{rest}"
    flat = tmp_path / "a.npy"
    flat.write_bytes(content)
    assert failure(flat) == f"{flat}{rest}"
    flat.write_bytes(npy_bytes(X, shape=(-2, -3, 4)))
    assert failure(flat) == (
        f"{flat} declares the shape (-2, -3, 4): sizes cannot be negative; write the file again"
    )


def test_an_npz_array_above_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(2000))
    monkeypatch.setattr(array_files, "MAX_NPZ_BYTES", 15999)
    assert failure(tmp_path / "a.npz") == (
        f"array 'x' of {tmp_path / 'a.npz'} takes 16000 bytes, and an .npz array is read whole, at most "
        "15999 bytes: save it as .npy or .safetensors, which are mapped"
    )


def test_a_zip_member_longer_than_it_declares_is_cut_and_refused(tmp_path: Path):
    """A bomb: 1 MB of zeros compressed, both zip headers saying 228 bytes, as does the .npy header."""
    path = npz(tmp_path / "a.npz", x=npy_bytes(np.zeros(25, np.float32)) + bytes(10**6))
    content = path.read_bytes()
    declared = struct.pack("<I", 228 + 10**6)
    assert content.count(declared) == 2
    path.write_bytes(content.replace(declared, struct.pack("<I", 228)))
    assert failure(path) == (f"{path} is damaged or is no .npz file (Bad CRC-32 for file 'x.npy'): write it again")


def test_other_files_are_named_as_damaged(tmp_path: Path):
    for suffix in (".npy", ".npz", ".safetensors"):
        (tmp_path / f"a{suffix}").write_bytes(b"not an array file, but long enough to be read as one " * 4)
    assert failure(tmp_path / "a.npz") == (
        f"{tmp_path / 'a.npz'} is damaged or is no .npz file (File is not a zip file): write it again"
    )
    assert failure(tmp_path / "a.npy") == (
        f"{tmp_path / 'a.npy'} has no valid .npy header (the magic string is not correct; expected "
        "b'\\x93NUMPY', got b'not an'): write it with numpy.save"
    )
    assert failure(tmp_path / "a.safetensors").startswith(
        f"{tmp_path / 'a.safetensors'} is damaged or is no .safetensors file ("
    )
    assert failure(tmp_path / "none.npy") == f"{tmp_path / 'none.npy'} cannot be read: No such file or directory"


def test_bfloat16_is_refused_by_name(tmp_path: Path):
    header = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert failure(path) == f"array 'x' of {path} holds BF16; allowed: {ALLOWED}"


def test_two_arrays_of_one_name_are_refused(tmp_path: Path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("x.npy", npy_bytes(X))
        archive.writestr("x.npy", npy_bytes(X + 1))
    assert failure(path) == f"{path} holds two arrays of the same name: write it again with numpy.savez"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_any_damage_gives_an_input_error_or_an_array(tmp_path: Path, suffix: str, at: float, byte: int, cut: bool):
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, X)
    elif suffix == ".npz":
        np.savez_compressed(path, x=X)
    else:
        save_file({"x": X}, path)
    content = bytearray(path.read_bytes())
    position = int(at * len(content))
    content[position] = byte
    path.write_bytes(content[:position] if cut else content)
    message = str(path)
    try:
        assert sum(read_array(path, name).nbytes for name in array_names(path)) <= 4096
    except InputError as error:
        message = str(error)
    assert str(path) in message
