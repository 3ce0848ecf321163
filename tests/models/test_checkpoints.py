import pickle

import pytest
import torch
from fxedge.models import CheckpointError, load_checkpoint, load_state
from safetensors.torch import save_file
from torch import nn

PICKLED = "it is damaged, or holds Python objects other than tensors"
HINT = (
    "(save it with torch.save(model.state_dict(), path) or safetensors.torch.save_file; "
    "pickled modules are not loaded, because that runs code)"
)


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def _assert_equal_weights(one: nn.Module, two: nn.Module) -> None:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def _message(path, model: nn.Module | None = None) -> str:
    """The error of loading `path`, without the folder that pytest chose."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(_net() if model is None else model, path)
    return str(caught.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "nested.pt", "net.safetensors"])
def test_round_trip(tmp_path, name):
    saved, path = _net(), tmp_path / name
    if name == "net.safetensors":
        save_file(saved.state_dict(), path)
    elif name == "nested.pt":
        torch.save({"state_dict": saved.state_dict(), "epoch": 3}, path)
    else:
        torch.save(saved.state_dict(), path)
    model = _net()
    assert load_checkpoint(model, str(path)) is model
    _assert_equal_weights(model, saved)


def test_old_checkpoints_without_the_batch_counter_load(tmp_path):
    saved, path = _net(), tmp_path / "old.pth"
    torch.save({k: v for k, v in saved.state_dict().items() if k != "1.num_batches_tracked"}, path)
    _assert_equal_weights(load_checkpoint(_net(), path), saved)


def test_half_precision_weights_are_widened(tmp_path):
    path = tmp_path / "half.safetensors"
    save_file({key: value.half() for key, value in nn.Linear(2, 2).state_dict().items()}, path)
    assert load_checkpoint(nn.Linear(2, 2), path).weight.dtype == torch.float32


def test_parameters_come_without_their_gradient_flag(tmp_path):
    torch.save(dict(_net().named_parameters()), tmp_path / "parameters.pt")
    assert not any(tensor.requires_grad for tensor in load_state(tmp_path / "parameters.pt").values())


def test_missing_file(tmp_path):
    assert _message(tmp_path / "none.pt") == "checkpoint none.pt: no such file"


def test_unknown_suffix(tmp_path):
    assert _message(tmp_path / "net.bin") == (
        "checkpoint net.bin: suffix '.bin' is not known; allowed are .pt, .pth, .safetensors"
    )


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(64), bytes(3)])
def test_unreadable_file(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    message = _message(path)
    assert message.startswith(f"checkpoint {name} cannot be read: ")
    assert message.endswith(HINT)
    assert "\n" not in message


def test_truncated_file(tmp_path):
    path = tmp_path / "cut.pt"
    torch.save(_net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    assert _message(path).startswith("checkpoint cut.pt cannot be read: ")


class _RunsCode:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was executed",))


def test_code_in_a_pickle_is_not_run(tmp_path):
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"weight": _RunsCode()}, protocol=2))
    assert _message(path) == f"checkpoint evil.pt cannot be read: {PICKLED} {HINT}"


def test_a_whole_module_is_refused(tmp_path):
    torch.save(_net(), tmp_path / "module.pt")
    assert _message(tmp_path / "module.pt") == f"checkpoint module.pt cannot be read: {PICKLED} {HINT}"


def test_a_bare_tensor(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "tensor.pt")
    assert _message(tmp_path / "tensor.pt") == ("checkpoint tensor.pt holds a Tensor, not a dict of named tensors")


def test_entries_that_are_not_tensors(tmp_path):
    torch.save(
        {"0.weight": torch.zeros(3, 2), "epoch": 3, "best": 0.5, 7: torch.zeros(1), "x": []}, tmp_path / "a.pt"
    )
    assert _message(tmp_path / "a.pt") == (
        "checkpoint a.pt holds 4 entries that are not named tensors ('epoch': int, 'best': float, 7: Tensor, "
        "and 1 more); save the state dict alone, or under the key 'state_dict'"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity(tmp_path, value):
    state = _net().state_dict()
    state["1.running_var"][1] = value
    save_file(state, tmp_path / "bad.safetensors")
    assert _message(tmp_path / "bad.safetensors") == (
        "checkpoint bad.safetensors has NaN or infinity in 1 tensor(s) (1.running_var)"
    )


def test_everything_that_does_not_fit_is_told_at_once(tmp_path):
    state = _net().state_dict()
    state["2.weight"] = torch.zeros(5, 3)
    state["2.bias"] = torch.zeros(2, dtype=torch.int8)
    for key in ("0.weight", "0.bias", "1.weight", "1.bias"):
        state[f"module.{key}"] = state.pop(key)
    torch.save(state, tmp_path / "other.pt")
    model = _net()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert _message(tmp_path / "other.pt", model) == (
        "checkpoint other.pt does not fit Sequential: 4 missing (0.weight, 0.bias, 1.weight, and 1 more); "
        "4 unexpected (module.0.weight, module.0.bias, module.1.weight, and 1 more); 2 of another form "
        "(2.weight is float32 (5, 3), the model has float32 (2, 3), 2.bias is int8 (2,), the model has "
        "float32 (2,))"
    )
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
