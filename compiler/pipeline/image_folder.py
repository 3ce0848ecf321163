"""A folder of images (.jpg, .jpeg, .png, .bmp, .webp) as uint8 NHWC, decoded when asked for.

Images lie in the folder itself (no labels), or in subfolders, one for each class, at any depth below it. If all
subfolder names are integers they are the class indices; else classes are numbered in sorted order of the names.
Every subfolder counts as a class, an empty one too; names that start with a dot are passed over. The order is
by label, then by path. What a file is, its bytes decide, not its suffix: the four formats are tried, no other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from ..ir.errors import InputError
from .preprocess import Preprocess

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MAX_IMAGE_PIXELS = 64 * 2**20
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")
_INDEX = re.compile(r"[0-9]{1,9}")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class ImageFolder:
    """Images by position: `folder[2:5]` decodes three of them to uint8 [3, H, W, 3] (gray: [3, H, W, 1]).

    `labels` is int64 [images] or None, `class_names` the subfolders' names where they are not indices.
    """

    root: Path
    files: tuple[Path, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    size: tuple[int, int] | None
    color: str

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: slice) -> np.ndarray:
        """Raises InputError if an image cannot be decoded; names the file."""
        return np.stack([self._decode(path) for path in self.files[index]])

    def select(self, keep: Callable[[int], bool]) -> ImageFolder:
        """The images at the positions for which `keep` is true."""
        kept = [at for at in range(len(self)) if keep(at)]
        files, labels = tuple(self.files[at] for at in kept), None if self.labels is None else self.labels[kept]
        return dataclasses.replace(self, files=files, labels=labels)

    def fingerprint(self) -> str:
        """sha256 over the files' paths below the folder and their bytes."""
        digest = hashlib.sha256()
        for path in self.files:
            with _reading(path), path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{path.relative_to(self.root).as_posix()}\0{content}\n".encode())
        return digest.hexdigest()

    def _decode(self, path: Path) -> np.ndarray:
        def decode(image: Image.Image) -> np.ndarray:
            pixels = _convert(image, "RGB" if self.color == "rgb" else "L")
            if self.size is not None:
                height, width = self.size
                pixels = ImageOps.fit(pixels, (width, height), method=Image.Resampling.BILINEAR)
            array = np.asarray(pixels)
            return array if array.ndim == 3 else array[:, :, None]

        return _with_image(path, decode)


def open_image_folder(root: Path, preprocess: Preprocess, limit: int | None = None) -> ImageFolder:
    """List the images of `root`, and read their headers; `limit` takes that many, evenly spaced over the order.

    Raises:
        InputError: there is no image, classes are ambiguous, a header is damaged or declares more than
            `MAX_IMAGE_PIXELS`, or sizes differ and `preprocess` names no size.
    """
    files, labels, class_names = _list_images(root)
    if limit is not None and limit < len(files):
        keep = [i * len(files) // limit for i in range(limit)]
        files = [files[i] for i in keep]
        labels = None if labels is None else [labels[i] for i in keep]
    sizes = [_with_image(path, lambda image: (image.height, image.width)) for path in files]
    if preprocess.size is None:
        _check_one_size(files, sizes)
    indices = None if labels is None else np.array(labels, dtype=np.int64)
    return ImageFolder(root, tuple(files), indices, class_names, preprocess.size, preprocess.color)


def _list_images(root: Path) -> tuple[list[Path], list[int] | None, tuple[str, ...] | None]:
    try:
        flat = sorted(path for path in root.iterdir() if _is_image(path))
        classes = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
        nested = {name: sorted(filter(_is_image, (root / name).rglob("*"))) for name in classes}
    except OSError as error:
        raise InputError(f"the folder {root} cannot be read: {error.strerror or error}") from error
    found = any(nested.values())
    if not flat and not found:
        raise InputError(
            f"the folder {root} holds no images: put {', '.join(IMAGE_SUFFIXES)} files into it, "
            "or into one subfolder for each class"
        )
    if flat and found:
        raise InputError(
            f"the folder {root} holds images itself ({flat[0].name}) and in subfolders ({classes[0]}): "
            "put all of them into subfolders, one for each class, or none"
        )
    if flat:
        return flat, None, None
    index_of, class_names = _number_classes(root, classes)
    pairs = sorted((index_of[name], path) for name, paths in nested.items() for path in paths)
    return [path for _, path in pairs], [label for label, _ in pairs], class_names


def _number_classes(root: Path, classes: list[str]) -> tuple[dict[str, int], tuple[str, ...] | None]:
    if not all(_INDEX.fullmatch(name) for name in classes):
        return {name: i for i, name in enumerate(classes)}, tuple(classes)
    index_of = {name: int(name) for name in classes}
    seen: dict[int, str] = {}
    for name, index in index_of.items():
        if index in seen:
            raise InputError(f"{root}: the subfolders {seen[index]} and {name} are both class {index}: merge them")
        seen[index] = name
    return index_of, None


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "." and path.is_file()


def _check_one_size(files: list[Path], sizes: list[tuple[int, int]]) -> None:
    for path, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise InputError(
                f"{path} is {size[0]} x {size[1]} (H x W), but {files[0]} is {sizes[0][0]} x {sizes[0][1]}: "
                "declare a size (--size HxW), to which images are cropped and resized"
            )


def _with_image(path: Path, use: Callable[[Image.Image], _T]) -> _T:
    """`use` on the opened image; decoders raise errors of many kinds, which all mean a damaged file."""
    with _reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path, formats=_FORMATS) as image:
            _check_image(path, image)
            return use(image)


def _check_image(path: Path, image: Image.Image) -> None:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise InputError(
            f"{path} declares {image.height} x {image.width} pixels (H x W); allowed are at most "
            f"{MAX_IMAGE_PIXELS} pixels: shrink the image"
        )
    if image.mode not in _MODES:
        raise InputError(
            f"{path} has pixels of type {image.mode!r} (16 bits or more): convert it to 8 bits for each channel"
        )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the image {path} cannot be decoded ({type(error).__name__}: {error}): "
            "replace it or take it out of the folder"
        ) from error


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)
