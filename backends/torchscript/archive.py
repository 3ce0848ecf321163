"""TorchScript files that depend on nothing but the module: the same module gives the same bytes.

A `.ptl` holds bytecode for the lite interpreter beside what a `.pt` holds.

`torch.jit.save` numbers classes by how many the process has seen and stores source locations. Here the numbers are
counted from 0 and the locations left out; loading needs neither.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import torch

from .deprecated import lite_bytes, quiet

_MANGLED = re.compile(rb"___torch_mangle_\d+")
# A name as pickle stores a text: its length goes with it.
_PICKLED_NAME = re.compile(rb"X(....)(__torch__[\w.]*)", re.DOTALL)
LITE, _BYTECODE = ".ptl", "bytecode.pkl"
# Written by the archive itself.
_OWN = frozenset({"version", "byteorder", ".data/serialization_id"})


def write(module: Any, path: Path) -> None:
    """Store a scripted module at `path`, for the interpreter that its suffix says."""
    buffer = io.BytesIO()
    if path.suffix == LITE:
        buffer.write(lite_bytes(module))
    else:
        with quiet():
            torch.jit.save(module, buffer)
    path.write_bytes(_normalized(buffer))


def _normalized(buffer: io.BytesIO) -> bytes:
    buffer.seek(0)
    reader = torch._C.PyTorchFileReader(buffer)
    names = [name for name in reader.get_all_records() if name not in _OWN and not name.endswith(".debug_pkl")]
    records = {name: reader.get_record(name) for name in names}
    numbers: dict[bytes, bytes] = {}

    def renumber(text: bytes) -> bytes:
        return _MANGLED.sub(lambda m: numbers.setdefault(m[0], b"___torch_mangle_%d" % len(numbers)), text)

    def renumber_pickled(found: re.Match[bytes]) -> bytes:
        length = int.from_bytes(found[1], "little")
        name = renumber(found[2][:length])
        return b"X" + len(name).to_bytes(4, "little") + name + found[2][length:]

    result = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(result)
    for name, data in records.items():
        if name == _BYTECODE:
            data = _PICKLED_NAME.sub(renumber_pickled, data)
        elif name.startswith("code/") or name.endswith(".pkl"):
            data = renumber(data)
        writer.write_record(renumber(name.encode()).decode(), data, len(data))
    writer.write_end_of_file()
    return result.getvalue()
