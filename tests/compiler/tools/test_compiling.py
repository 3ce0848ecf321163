import pytest
from fxedge.backends import registry
from fxedge.compiler.ir.errors import BackendUnavailableError, InputError
from fxedge.compiler.tools.compiling import bundle_stem, choose_targets
from small_compile import patch_missing


def lack(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        patch_missing(monkeypatch, name, f"{name} is not here")


def test_all_are_those_that_run_here(monkeypatch: pytest.MonkeyPatch):
    lack(monkeypatch, "qnnpack")
    chosen, skipped = choose_targets(("all",))
    assert "onnx" in chosen
    assert "qnnpack" not in chosen
    assert skipped["qnnpack"] == "qnnpack is not here"


def test_a_named_target_is_kept(monkeypatch: pytest.MonkeyPatch):
    lack(monkeypatch, "qnnpack")
    assert choose_targets(("qnnpack", "x86", "qnnpack")) == (("qnnpack", "x86"), {})
    chosen, skipped = choose_targets(("all", "qnnpack"))
    assert "qnnpack" in chosen
    assert "qnnpack" not in skipped


def test_nothing_runs_here(monkeypatch: pytest.MonkeyPatch):
    reasons = dict.fromkeys(registry.names(), "no")
    lack(monkeypatch, *reasons)
    with pytest.raises(BackendUnavailableError) as caught:
        choose_targets(("all",))
    lines = " ".join(f"[{name}] {name} is not here" for name in registry.names())
    assert str(caught.value) == f"No target can be used here. {lines}"


def test_no_and_unknown_targets():
    with pytest.raises(InputError) as none:
        choose_targets(())
    with pytest.raises(InputError) as unknown:
        choose_targets(("onnx", "onx"))
    allowed = ", ".join(registry.names())
    assert str(none.value) == f"no target is given; allowed: {allowed}, all"
    assert str(unknown.value) == f"Unknown target 'onx'; allowed: {allowed}, all. Did you mean 'onnx'?"


@pytest.mark.parametrize(
    ("model", "stem"), [("digits", "digits"), ("a/net.pt2", "net"), ("a/net.py:make", "make"), ("a.b/c.pt2", "c")]
)
def test_bundles_are_named_after_the_model(model: str, stem: str):
    assert bundle_stem(model) == stem
