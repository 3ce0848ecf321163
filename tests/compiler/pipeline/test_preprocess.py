import numpy as np
import pytest
import torch
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.pipeline.preprocess import Preprocess

IMAGENET = Preprocess(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale="1/255", layout="NHWC", dtype="uint8"
)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_json_round_trip_is_lossless():
    full = IMAGENET.model_copy(update={"size": (224, 192), "color": "gray"})
    for preprocess in (Preprocess(), IMAGENET, full):
        assert Preprocess.model_validate_json(preprocess.model_dump_json()) == preprocess
    assert Preprocess(scale="1/255").scale == 1 / 255
    assert Preprocess(scale="0.25").scale == 0.25


def test_steps_are_float32_in_the_written_order():
    raw = pixels(2, 4, 5, 3)
    expected = np.empty((2, 3, 4, 5), np.float32)
    for channel in range(3):
        x = raw[..., channel].astype(np.float32)
        x = x * np.float32(1 / 255)
        x = x - np.float32(IMAGENET.mean[channel])
        expected[:, channel] = x / np.float32(IMAGENET.std[channel])
    result = IMAGENET.apply(raw)
    assert result.dtype is torch.float32
    assert result.is_contiguous()
    np.testing.assert_array_equal(result.numpy(), expected)


def test_layouts_agree_and_one_value_serves_all_channels():
    raw = pixels(2, 4, 5, 3)
    nhwc = Preprocess(mean=(127.5,), std=(2.0,), layout="NHWC").apply(raw)
    nchw = Preprocess(mean=(127.5,) * 3, std=(2.0,) * 3, layout="NCHW").apply(raw.transpose(0, 3, 1, 2))
    flat = Preprocess(mean=(127.5,), std=(2.0,)).apply(raw)
    assert torch.equal(nhwc, nchw)
    assert torch.equal(nhwc, flat.permute(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.bool_])
def test_token_ids_pass_unchanged(dtype: type):
    ids = np.array([[0, 1, 1], [1, 0, 0]], dtype=dtype)
    result = Preprocess(dtype=np.dtype(dtype).name).apply(ids)
    assert result.numpy().dtype == dtype
    np.testing.assert_array_equal(result.numpy(), ids)


def test_big_endian_integers_pass_in_native_order():
    result = Preprocess().apply(np.array([1, 2], dtype=">i4"))
    assert result.dtype is torch.int32
    assert result.tolist() == [1, 2]


def test_integers_become_float_once_a_step_or_a_layout_is_declared():
    ids = np.arange(24, dtype=np.int64).reshape(2, 3, 2, 2)
    assert Preprocess(scale=0.5).apply(ids).dtype is torch.float32
    assert Preprocess(layout="NCHW").apply(ids).dtype is torch.float32


def test_the_result_never_shares_memory_with_the_raw_data():
    raw = np.zeros((1, 1, 2, 2), dtype=np.float32)
    for preprocess in (Preprocess(), Preprocess(layout="NCHW"), Preprocess(layout="NHWC")):
        preprocess.apply(raw).add_(1)
    assert not raw.any()


APPLY_ERRORS = [
    (
        IMAGENET,
        np.zeros((1, 4, 4, 3), np.float32),
        "images holds float32, but the declared dtype is uint8: declare dtype float32, or convert the data",
    ),
    (
        IMAGENET,
        pixels(4, 4, 3),
        "images has shape (4, 4, 3), but layout NHWC needs 4 axes (N is the sample): "
        'reshape the data, or declare layout "none" to leave the axes alone',
    ),
    (
        IMAGENET,
        pixels(1, 3, 4, 4),
        "mean has 3 values, but images of shape (1, 3, 4, 4) has 4 channel(s) in layout NHWC: "
        "give 1 or 4 values, or another layout",
    ),
    (
        Preprocess(layout="NCHW", size=(4, 5)),
        pixels(1, 3, 4, 4),
        "images is 4 x 4 (H x W), but the declared size is 4 x 5: "
        "only images from a folder are resized; resize the data, or drop the size",
    ),
    (
        Preprocess(mean=(0.5, 0.5, 0.5)),
        pixels(1, 3, 4, 4),
        'images is declared to have layout "none", which has no channel axis, so mean and std may '
        "have one value each, not 3: declare NHWC or NCHW",
    ),
]


@pytest.mark.parametrize(("preprocess", "raw", "message"), APPLY_ERRORS)
def test_apply_says_what_does_not_fit(preprocess: Preprocess, raw: np.ndarray, message: str):
    with pytest.raises(InputError) as caught:
        preprocess.apply(raw, "images")
    assert str(caught.value) == message


OPTION_ERRORS = [
    (
        {"mean": (0.5, 0.5), "std": (1.0,), "layout": "NHWC"},
        "mean has 2 values and std has 1: give as many of one as of the other",
    ),
    ({"std": (0.0,)}, "std is (0.0,): every value must be above 0"),
    ({"std": (1e-60,)}, "std is (1e-60,): every value must be above 0"),
    ({"mean": (1e60,)}, "mean and std must be finite in float32"),
    ({"scale": 0}, "scale is 0.0: give a number that is neither 0 nor infinite in float32"),
    ({"scale": "1/x"}, "scale is '1/x': give a number such as 0.5 or a fraction such as 1/255"),
    ({"scale": "1/0"}, "scale is '1/0': give a number such as 0.5 or a fraction such as 1/255"),
    ({"scale": "nan"}, "scale is nan: input should be a finite number"),
    ({"layout": "nhwc"}, "layout is 'nhwc': input should be 'NHWC', 'NCHW' or 'none'"),
    ({"size": (0, 4)}, "size is (0, 4): height and width must be at least 1"),
    (
        {"means": (0.5,)},
        "means is not an option; allowed: mean, std, scale, layout, dtype, size, color",
    ),
]


@pytest.mark.parametrize(("options", "message"), OPTION_ERRORS)
def test_options_say_what_is_allowed(options: dict, message: str):
    with pytest.raises(InputError) as caught:
        Preprocess(**options)
    assert str(caught.value) == f"preprocessing: {message}"
    with pytest.raises(InputError):
        Preprocess.model_validate(options)
