from pathlib import Path

import numpy as np
import pytest
import torch
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.pipeline.data import Dataset, from_arrays, open_dataset
from fxedge.compiler.pipeline.holdout import few_samples, split_samples
from fxedge.compiler.pipeline.preprocess import Preprocess
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image


def numbered(count: int, batch_size: int = 4) -> Dataset:
    return from_arrays(
        np.arange(count, dtype=np.float32)[:, None], batch_size=batch_size, labels=list(range(count))
    )


def samples(data: Dataset) -> list[int]:
    return [int(value) for batch in data for value in batch.inputs[0][:, 0]]


def failure(data: Dataset, share: float) -> str:
    with pytest.raises(InputError) as caught:
        split_samples(data, share)
    return str(caught.value)


@given(st.integers(20, 200), st.sampled_from([0.1, 0.2, 0.25, 1 / 3, 0.4, 0.5, 0.75]), st.integers(0, 5))
def test_the_parts_are_all_samples_once_and_of_the_share_asked_for(count: int, share: float, seed: int):
    tuning, judged = split_samples(numbered(count), share, seed)
    kept, held = samples(tuning), samples(judged)
    assert sorted(kept + held) == list(range(count))
    assert kept == sorted(kept)
    assert held == sorted(held)
    assert abs(len(held) - share * count) <= 1
    assert (tuning.count, judged.count) == (len(kept), len(held))


def test_the_same_every_time_and_another_with_another_seed():
    data = numbered(64)
    first = samples(split_samples(data, 0.25)[1])
    assert first == samples(split_samples(data, 0.25)[1])
    assert first != samples(split_samples(data, 0.25, seed=1)[1])
    assert [at // 4 for at in first] == list(range(16))


def test_labels_names_and_full_batches_go_along():
    tuning, judged = split_samples(numbered(20, batch_size=4), 0.25)
    assert (tuning.name, judged.name) == ("the given data, tuning part", "the given data, held-out part")
    assert [len(batch.inputs[0]) for batch in tuning] == [4, 4, 4, 3]
    for part in (tuning, judged):
        assert part.labels is not None
        assert samples(part) == part.labels.tolist()
        assert [int(label) for batch in part for label in batch.labels] == samples(part)
    assert tuning.fingerprint() != judged.fingerprint()


def test_a_folder_decodes_only_what_it_gives(tmp_path: Path):
    for at in range(8):
        folder = tmp_path / str(at // 4)
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 2), at, dtype=np.uint8)).save(folder / f"{at}.png")
    data = open_dataset(tmp_path, Preprocess(color="gray"), ["x"], batch_size=4)
    tuning, judged = split_samples(data, 0.5)
    seen = [int(batch.inputs[0][row, 0, 0, 0]) for batch in judged for row in range(len(batch.inputs[0]))]
    assert len(judged) == len(tuning) == 4
    assert judged.labels.tolist() == [at // 4 for at in seen] == [0, 0, 1, 1]
    (tmp_path / str(seen[0] // 4) / f"{seen[0]}.png").write_bytes(b"damaged")
    assert [len(batch.inputs[0]) for batch in tuning] == [4]


def test_a_stream_of_unknown_length():
    data = from_arrays(lambda: (torch.full((3, 1), float(at)) for at in range(5)), batch_size=4)
    tuning, judged = split_samples(data, 0.2)
    assert tuning.count is None
    assert sorted(samples(tuning) + samples(judged)) == sorted(at for at in range(5) for _ in range(3))


def test_a_stream_that_is_too_short_for_two_parts():
    alone = from_arrays(lambda: (torch.ones(1, 1),))
    tuning, judged = split_samples(alone, 0.5, seed=0)
    empty, full = (judged, tuning) if _fails(judged) else (tuning, judged)
    assert samples(full) == [1]
    with pytest.raises(InputError) as caught:
        list(empty)
    assert str(caught.value) == f"{empty.name} is empty: the data have 1 sample(s); give more"


def _fails(data: Dataset) -> bool:
    try:
        list(data)
    except InputError:
        return True
    return False


def test_a_few_samples_are_spread_over_all():
    assert samples(few_samples(numbered(10), 4)) == [0, 2, 5, 7]
    assert samples(few_samples(numbered(3), 4)) == [0, 1, 2]
    stream = from_arrays(lambda: (torch.arange(4.0)[:, None] + 4 * at for at in range(3)))
    assert samples(few_samples(stream, 5)) == [0, 1, 2, 3, 4]


def test_too_few_samples_and_wrong_shares():
    assert failure(numbered(1), 0.25) == (
        "the given data has 1 sample(s), too few to hold out 25% of them: give at least 4"
    )
    for share in (0, 1, -0.5, 1.5, float("nan")):
        assert failure(numbered(8), share) == (
            f"the share of samples to hold out is {share}: it must lie between 0 and 1"
        )


def test_samples_of_other_sizes_are_in_other_batches():
    batches = [(torch.full((2, wide), float(wide)),) for wide in (3, 3, 5, 4)]
    few = few_samples(from_arrays(batches, None, ["x"], 4), 6)
    assert [tuple(batch.inputs[0].shape) for batch in few] == [(3, 3), (2, 5), (1, 4)]
