import json
from collections.abc import Callable
from pathlib import Path

from fxedge import __version__


def test_a_table_with_the_most_sensitive_layer_first(fxedge: Callable, net: str):
    status, out, err = fxedge("sensitivity", f"{net}:make", "--calib", f"{net}:batches", "--target", "onnx", "-q")
    assert (status, err) == (0, "")
    head, first, second, _, said = out.splitlines()
    assert head.split() == ["layer", "module", "weights", "8", "bits", "6", "bits", "4", "bits"]
    assert sorted([first.split()[:3], second.split()[:3]]) == [["conv2d", "0", "36"], ["linear", "4", "432"]]
    levels = [float(row.split()[3]) for row in (first, second)]
    assert levels == sorted(levels)
    assert first.split()[4:8] == ["dB,", "0", "%", "[0,"]
    assert said == (
        "net.py:make on onnx, 12 samples: the outputs' SQNR, and the share of top-1 that changes, with each layer "
        "alone on integers and the rest float; most sensitive at 8 bits first"
    )


def test_as_json(fxedge: Callable, net: str):
    given = ["--calib", f"{net}:batches", "--target", "onnx", "--bits", "4,8", "--samples", "5", "--json", "-q"]
    found = json.loads(fxedge("sensitivity", f"{net}:make", *given)[1])
    assert {key: found[key] for key in found if key != "layers"} == {
        "schema_version": 1,
        "fxedge": __version__,
        "model": "net.py:make",
        "target": "onnx",
        "samples": 5,
        "bits": [4, 8],
    }
    assert [layer["rank"] for layer in found["layers"]] == [1, 2]
    first, second = found["layers"]
    assert set(first) == {"rank", "node", "module", "op", "weights", "losses"}
    assert list(first["losses"]) == ["4", "8"]
    assert first["losses"]["4"]["sqnr_db"] <= second["losses"]["4"]["sqnr_db"]
    assert first["losses"]["4"]["changed"].keys() == {"hits", "total", "low", "high"}
    assert first["losses"]["8"]["changed"]["total"] == 5


def test_no_classifier_has_no_top_1(fxedge: Callable, net: str):
    given = ["--calib", f"{net}:images", "--target", "onnx", "--bits", "8", "-q"]
    with Path(net).open("a") as file:
        file.write("\n\ndef dense():\n    return Net(nn.Conv2d(1, 4, 3))\n")
        file.write("\n\ndef images():\n    return torch.randn(8, 1, 6, 6)\n")
    out = fxedge("sensitivity", f"{net}:dense", *given)[1]
    assert out.splitlines()[1].endswith(" dB")
    found = json.loads(fxedge("sensitivity", f"{net}:dense", *given, "--json")[1])
    assert found["layers"][0]["losses"]["8"]["changed"] is None


def test_wrong_use(fxedge: Callable, net: str):
    data = ("--calib", f"{net}:batches", "-q")

    def refused(*given: str) -> str:
        status, out, err = fxedge("sensitivity", f"{net}:make", *data, *given)
        assert (status, out) == (2, "")
        return err

    assert refused("--bits", "8,x") == "error: --bits is '8,x': give numbers from 2 to 8, as in 8,6,4\n"
    assert refused("--bits", "1", "--target", "onnx") == (
        "error: The widths to measure are 1; allowed: one or more of 2 to 8 bits.\n"
    )
    assert refused("--target", "onnx,x86") == (
        "error: fxedge sensitivity measures one target at a time, not onnx, x86\n"
    )
    assert refused("--samples", "0").startswith("error: Invalid value for '--samples': ")
