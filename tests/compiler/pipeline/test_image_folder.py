import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.pipeline.image_folder import open_image_folder
from fxedge.compiler.pipeline.preprocess import Preprocess
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image


def write_image(path: Path, seed: int = 0, height: int = 6, width: int = 8) -> np.ndarray:
    """A noise image; returns its pixels [H, W, 3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def failure(root: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        open_image_folder(root, Preprocess(**options))
    return str(caught.value)


def relative(folder) -> list[str]:
    return [path.relative_to(folder.root).as_posix() for path in folder.files]


def test_named_classes_are_numbered_in_sorted_order(tmp_path: Path):
    for name in ("dog/b.png", "dog/a.PNG", "cat/deep/c.bmp", ".cache/d.png", "dog/.hidden.png", "dog/note.txt"):
        write_image(tmp_path / "x.png")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x.png").rename(tmp_path / name)
    (tmp_path / "empty").mkdir()
    folder = open_image_folder(tmp_path, Preprocess())
    assert relative(folder) == ["cat/deep/c.bmp", "dog/a.PNG", "dog/b.png"]
    assert folder.labels.tolist() == [0, 1, 1]
    assert folder.class_names == ("cat", "dog", "empty")


def test_integer_names_are_class_indices(tmp_path: Path):
    for name in ("10/a.png", "9/a.png", "0007/a.png"):
        write_image(tmp_path / name)
    folder = open_image_folder(tmp_path, Preprocess())
    assert relative(folder) == ["0007/a.png", "9/a.png", "10/a.png"]
    assert folder.labels.tolist() == [7, 9, 10]
    assert folder.class_names is None


def test_a_flat_folder_has_no_labels_and_decodes_in_order(tmp_path: Path):
    pixels = [write_image(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    folder = open_image_folder(tmp_path, Preprocess())
    assert folder.labels is None
    np.testing.assert_array_equal(folder[0:3], np.stack(pixels))
    np.testing.assert_array_equal(folder[2:3], pixels[2][None])


def test_a_limit_is_spread_over_the_classes(tmp_path: Path):
    for label in range(4):
        for i in range(3):
            write_image(tmp_path / str(label) / f"{i}.png")
    assert open_image_folder(tmp_path, Preprocess(), limit=4).labels.tolist() == [0, 1, 2, 3]
    assert len(open_image_folder(tmp_path, Preprocess(), limit=99)) == 12


def test_size_crops_the_centre_and_resizes(tmp_path: Path):
    pixels = write_image(tmp_path / "a.png", height=20, width=40)
    write_image(tmp_path / "b.png", height=30, width=10)
    folder = open_image_folder(tmp_path, Preprocess(size=(10, 10)))
    assert folder[0:2].shape == (2, 10, 10, 3)
    box = (10, 0, 30, 20)
    expected = Image.fromarray(pixels).resize((10, 10), Image.Resampling.BILINEAR, box=box)
    np.testing.assert_array_equal(folder[0:1][0], np.asarray(expected))


def test_an_image_of_the_declared_size_stays_as_it_is(tmp_path: Path):
    pixels = write_image(tmp_path / "a.png")
    np.testing.assert_array_equal(open_image_folder(tmp_path, Preprocess(size=(6, 8)))[0:1][0], pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_modes_become_rgb_or_gray(tmp_path: Path, mode: str):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path, **({"transparency": bytes([0, 255])} if mode == "P" else {}))
    assert open_image_folder(tmp_path, Preprocess())[0:1].shape == (1, 5, 4, 3)
    gray = open_image_folder(tmp_path, Preprocess(color="gray"))[0:1]
    assert gray.shape == (1, 5, 4, 1)
    if mode != "CMYK":
        stored = Image.open(path).convert("RGBA").convert("L")
        np.testing.assert_array_equal(gray[0, :, :, 0], np.asarray(stored))


def test_mixed_sizes_need_a_size(tmp_path: Path):
    write_image(tmp_path / "a.png", height=6, width=8)
    write_image(tmp_path / "b.png", height=8, width=6)
    assert failure(tmp_path) == (
        f"{tmp_path / 'b.png'} is 8 x 6 (H x W), but {tmp_path / 'a.png'} is 6 x 8: "
        "declare a size (--size HxW), to which images are cropped and resized"
    )


def test_folders_that_name_no_clear_set_of_images(tmp_path: Path):
    assert failure(tmp_path) == (
        f"the folder {tmp_path} holds no images: put .jpg, .jpeg, .png, .bmp, .webp files into it, "
        "or into one subfolder for each class"
    )
    write_image(tmp_path / "both" / "a.png")
    write_image(tmp_path / "both" / "cat" / "b.png")
    assert failure(tmp_path / "both") == (
        f"the folder {tmp_path / 'both'} holds images itself (a.png) and in subfolders (cat): "
        "put all of them into subfolders, one for each class, or none"
    )
    write_image(tmp_path / "twice" / "1" / "a.png")
    write_image(tmp_path / "twice" / "01" / "a.png")
    assert failure(tmp_path / "twice") == (
        f"{tmp_path / 'twice'}: the subfolders 01 and 1 are both class 1: merge them"
    )


def test_a_corrupt_image_is_named(tmp_path: Path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"no image")
    assert failure(tmp_path) == (
        f"the image {path} cannot be decoded (UnidentifiedImageError: cannot identify image file '{path}'): "
        "replace it or take it out of the folder"
    )


def test_a_truncated_image_is_named_when_it_is_decoded(tmp_path: Path):
    path = tmp_path / "a.jpg"
    write_image(path, height=64, width=64)
    path.write_bytes(path.read_bytes()[:-1000])
    folder = open_image_folder(tmp_path, Preprocess())
    with pytest.raises(InputError) as caught:
        folder[0:1]
    assert str(caught.value).startswith(f"the image {path} cannot be decoded (OSError: image file is truncated")
    assert str(caught.value).endswith("): replace it or take it out of the folder")


def png_header(height: int, width: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8193, 12000])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path, side: int):
    path = tmp_path / "a.png"
    path.write_bytes(png_header(side, 8192))
    assert failure(tmp_path) == (
        f"{path} declares {side} x 8192 pixels (H x W); allowed are at most 67108864 pixels: shrink the image"
    )


def test_sixteen_bit_pixels_are_refused(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(path)
    assert failure(tmp_path) == (
        f"{path} has pixels of type 'I;16' (16 bits or more): convert it to 8 bits for each channel"
    )


def test_fingerprint_follows_bytes_and_names(tmp_path: Path):
    write_image(tmp_path / "a" / "1" / "x.png", seed=1)
    write_image(tmp_path / "b" / "1" / "x.png", seed=1)
    write_image(tmp_path / "c" / "2" / "x.png", seed=1)
    write_image(tmp_path / "d" / "1" / "x.png", seed=2)
    prints = [open_image_folder(tmp_path / name, Preprocess()).fingerprint() for name in "abcd"]
    assert len(prints[0]) == 64
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_any_damage_gives_an_input_error_or_pixels(tmp_path: Path, suffix: str, at: float, byte: int, cut: bool):
    path = tmp_path / f"a{suffix}"
    write_image(path)
    content = bytearray(path.read_bytes())
    position = int(at * len(content))
    content[position] = byte
    path.write_bytes(content[:position] if cut else content)
    message = str(path)
    try:
        assert open_image_folder(tmp_path, Preprocess(size=(4, 4)))[0:1].shape == (1, 4, 4, 3)
    except InputError as error:
        message = str(error)
    assert str(path) in message
