"""Which instruction set a choice stands for, and what the processor says of itself."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import pytest
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.quant.isa import choose_isa, isa_notes, native_isa, read_cpuinfo, require_isa
from toy_target import TOY

BOTH = dataclasses.replace(TOY, saturation={"avx2": lambda step, weight: weight, "vnni": None})


def cpuinfo(folder: Path, flags: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"model name\t: Some CPU\nflags\t\t: fpu {flags}\n\nmodel name\t: Other CPU\nflags\t\t: fpu\n")
    return path


@pytest.fixture
def on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def test_the_first_processor_is_read(tmp_path: Path):
    assert read_cpuinfo(cpuinfo(tmp_path, "avx2")) == ("Some CPU", {"fpu", "avx2"})
    assert read_cpuinfo(tmp_path / "none") == ("", set())


@pytest.mark.usefixtures("on_x86")
@pytest.mark.parametrize(
    ("flags", "isa"), [("avx2 avx512_vnni", "vnni"), ("avx2 avx_vnni", "avx2"), ("avx2 avx512bw", "avx2")]
)
def test_native_on_x86(flags: str, isa: str, tmp_path: Path):
    assert native_isa(cpuinfo(tmp_path, flags)) == isa
    assert choose_isa(BOTH, "native", cpuinfo(tmp_path, flags)) == isa


@pytest.mark.usefixtures("on_x86")
def test_a_silent_system_counts_as_avx2(tmp_path: Path):
    assert native_isa(tmp_path / "none") == "avx2"


def test_safe_is_the_first_and_names_are_themselves():
    assert choose_isa(BOTH, "safe") == "avx2"
    assert choose_isa(BOTH, "vnni") == "vnni"


def test_an_unknown_one_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError) as error:
        choose_isa(BOTH, "sse9")
    assert str(error.value) == (
        "The toy target knows no instruction set 'sse9'; allowed: safe, native, avx2, vnni."
    )
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    with pytest.raises(InputError) as error:
        choose_isa(BOTH, "native")
    assert str(error.value) == (
        "The toy target knows no instruction set 'neon' (this machine's); allowed: safe, avx2, vnni."
    )


@pytest.mark.parametrize("choice", ["safe", "native", "avx2", "vnni", "neon"])
def test_kernels_that_are_all_the_same(choice: str):
    assert choose_isa(TOY, choice) is None
    require_isa([TOY], choice)


def test_a_name_that_is_none_is_refused_everywhere():
    with pytest.raises(InputError) as error:
        require_isa([TOY], "sse9")
    assert str(error.value) == (
        "The toy target knows no instruction set 'sse9'; allowed: safe, native, avx2, vnni, neon."
    )


def test_a_target_that_it_does_not_concern_says_so():
    assert isa_notes(TOY, "vnni") == (
        "the instruction set vnni changes nothing here: no kernel of this target sums in 16 bits",
    )
    assert isa_notes(TOY, "safe") == isa_notes(BOTH, "vnni") == ()
    require_isa([BOTH, TOY], "vnni")


def test_several_targets_are_told_apart():
    other = dataclasses.replace(TOY, name="arm", saturation={"neon": None})
    require_isa([BOTH, other], "safe")
    with pytest.raises(InputError) as error:
        require_isa([BOTH, other], "neon")
    assert str(error.value) == (
        "No instruction set 'neon' is known to the target(s) toy; allowed: toy: safe, native, avx2, vnni; arm: "
        "safe, native, neon."
    )
