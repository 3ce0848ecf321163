"""Reading weights: `.pt` and `.pth` (tensors only, no code is run) and `.safetensors`.

A torch file holds a state dict, or a dict with one under "state_dict". Checkpoints older than PyTorch 0.4.1
(among them torchvision's ResNets) and converted ones lack batch norm's `num_batches_tracked`; it counts
training steps only, so its absence is fine.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class CheckpointError(ValueError):
    """A checkpoint cannot be read, holds something else than finite tensors, or does not fit the model."""


def load_state(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, on the CPU.

    Raises CheckpointError for a missing or unreadable file, an unknown suffix, entries that are not tensors
    and tensors with NaN or infinity.
    """
    path = Path(path)
    read = _READERS.get(path.suffix)
    if read is None:
        allowed = ", ".join(_READERS)
        raise CheckpointError(f"checkpoint {path}: suffix {path.suffix!r} is not known; allowed are {allowed}")
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file")
    try:
        loaded = read(path)
    except Exception as error:  # the parsers raise whatever a damaged file makes them raise
        raise CheckpointError(
            f"checkpoint {path} cannot be read: {_reason(error)} (save it with "
            "torch.save(model.state_dict(), path) or safetensors.torch.save_file; pickled modules are not loaded, "
            "because that runs code)"
        ) from error
    return _checked(loaded, path)


def load_checkpoint(model: M, path: str | Path) -> M:
    """`model` with the weights of a checkpoint; every key and shape must agree, else it is left untouched.

    Raises CheckpointError as `load_state` does, and where keys, shapes or kinds (float, integer) differ.
    """
    state = load_state(path)
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    differing = [
        f"{key} is {_form(state[key])}, the model has {_form(tensor)}"
        for key, tensor in wanted.items()
        if key in state and not _fits(state[key], tensor)
    ]
    problems = [
        f"{len(found)} {what} ({_first(found)})"
        for what, found in (("missing", missing), ("unexpected", unexpected), ("of another form", differing))
        if found
    ]
    if problems:
        raise CheckpointError(f"checkpoint {path} does not fit {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict(state, strict=False)
    return model


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's own text advises to load it with its code run
        return "it is damaged, or holds Python objects other than tensors"
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _read_torch(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


_READERS: dict[str, Callable[[Path], object]] = {
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".safetensors": load_file,
}


def _checked(loaded: object, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"checkpoint {path} holds a {type(loaded).__name__}, not a dict of named tensors")
    strange = [f"{key!r}: {type(value).__name__}" for key, value in loaded.items() if not _is_entry(key, value)]
    if strange:
        raise CheckpointError(
            f"checkpoint {path} holds {len(strange)} entries that are not named tensors ({_first(strange)}); "
            "save the state dict alone, or under the key 'state_dict'"
        )
    bad = [key for key, tensor in loaded.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(f"checkpoint {path} has NaN or infinity in {len(bad)} tensor(s) ({_first(bad)})")
    return {key: tensor.detach() for key, tensor in loaded.items()}


def _is_entry(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _fits(given: Tensor, wanted: Tensor) -> bool:
    return given.shape == wanted.shape and given.is_floating_point() == wanted.is_floating_point()


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _first(found: Iterable[str], shown: int = 3) -> str:
    found = list(found)
    rest = len(found) - shown
    return ", ".join(found[:shown]) + (f", and {rest} more" if rest > 0 else "")
