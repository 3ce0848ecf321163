from pathlib import Path

import pytest
from bench_records import record, result
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.pipeline.records import read_record, require_place, write_json
from fxedge.compiler.tools.bench.record import BenchRecord


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_record(path, BenchRecord, "a record", 1)
    return str(caught.value)


def test_read_as_it_was_written(tmp_path: Path):
    path, written = tmp_path / "run.json", record(result())
    write_json(path, written.model_dump(mode="json"))
    assert read_record(path, BenchRecord, "a record", 1) == written
    assert path.stat().st_mode & 0o600 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_written_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Interrupted before the last step: the record that was there stays, and nothing lies beside it."""
    path = tmp_path / "run.json"
    write_json(path, record(result()).model_dump(mode="json"))
    before = path.read_bytes()

    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, record(result(), result(target="x86")).model_dump(mode="json"))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_what_is_no_record(tmp_path: Path):
    path = tmp_path / "run.json"
    assert refusal(path) == f"{path} does not exist or is no file; give a record."
    path.write_text("{")
    assert refusal(path).startswith(f"{path} is not valid JSON (Expecting property name")
    path.write_text("[]")
    assert refusal(path) == f"{path} has schema None; this fxedge reads schema 1 of a record."
    path.write_text('{"schema_version": 1, "fxedge": 3}')
    assert refusal(path) == f"{path} is not a record: fxedge: Input should be a valid string."


def test_a_place_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(InputError) as caught:
        require_place(tmp_path / "none" / "run.json")
    assert str(caught.value) == f"The folder {tmp_path}/none does not exist; create it or choose another place."
    with pytest.raises(InputError) as caught:
        require_place(tmp_path)
    assert str(caught.value) == f"{tmp_path} is a folder; give the name of a file for the record."
