import numpy as np
import torch
from fxedge.models.digits import DATA, PREPROCESSING, WEIGHTS, digits, digits_data, preprocess
from torch import nn


def test_data_is_what_it_says():
    data = digits_data()
    for images, labels, count in (
        (data.calib_images, data.calib_labels, 256),
        (data.test_images, data.test_labels, 500),
    ):
        assert (images.dtype, images.shape) == (np.uint8, (count, 8, 8, 1))
        assert (labels.dtype, labels.shape) == (np.int64, (count,))
        assert (images.min(), images.max()) == (0, 16)
        assert set(labels.tolist()) == set(range(10))


def test_no_test_image_is_a_calibration_image():
    data = digits_data()
    calibration = {image.tobytes() for image in data.calib_images}
    assert calibration.isdisjoint(image.tobytes() for image in data.test_images)


def test_preprocessing_follows_its_description():
    images = digits_data().test_images[:3]
    expected = torch.from_numpy(np.moveaxis(images, 3, 1).astype(np.float32)) / 16
    assert (PREPROCESSING.scale, PREPROCESSING.mean, PREPROCESSING.std, PREPROCESSING.layout) == (
        0.0625,
        (0.0,),
        (1.0,),
        "NHWC",
    )
    assert torch.equal(preprocess(images), expected)


def test_accuracy_on_images_it_never_saw():
    data = digits_data()
    with torch.inference_mode():
        right = digits()(preprocess(data.test_images)).argmax(1) == torch.from_numpy(data.test_labels)
    assert right.sum() >= 495  # 496 where it was trained; another CPU's rounding may flip one


def test_batch_norms_are_unfolded_and_the_files_small():
    model = digits()
    assert not model.training
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 9
    assert WEIGHTS.stat().st_size < 400_000
    assert WEIGHTS.stat().st_size + DATA.stat().st_size < 500_000
