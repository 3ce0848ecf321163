"""Train the embedded digits net and write its weights and data: `python -m fxedge.models.train_digits`.

Needs scikit-learn (the extra `train`). Seeded and single-threaded, so that a second run on the same machine
writes the same bytes. The last 500 of the 1797 images are held out: neighbours in the data set come from the
same hand, so a random split would test on writers seen in training. The recipe is fixed, and the held-out
images are only used to print the accuracy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from safetensors import numpy as safetensors_numpy
from safetensors import torch as safetensors_torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from .digits import DATA, WEIGHTS, DigitsNet, preprocess

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

SEED = 0
TEST_COUNT = 500
CALIB_COUNT = 256
EPOCHS = 60
BATCH = 64


def main() -> None:
    """Train, print the held-out accuracy, write `digits.safetensors` and `digits_data.safetensors`."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    train_images, train_labels, test_images, test_labels = _split()
    model = train(preprocess(train_images), torch.from_numpy(train_labels))
    with torch.inference_mode():
        correct = (model(preprocess(test_images)).argmax(1) == torch.from_numpy(test_labels)).sum().item()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{correct} of {len(test_labels)} held-out images right ({correct / len(test_labels):.1%})")
    print(f"{parameters} parameters")
    safetensors_torch.save_file(model.state_dict(), WEIGHTS)
    data = {
        "calib_images": train_images[:CALIB_COUNT],
        "calib_labels": train_labels[:CALIB_COUNT],
        "test_images": test_images,
        "test_labels": test_labels,
    }
    safetensors_numpy.save_file({key: np.ascontiguousarray(array) for key, array in data.items()}, DATA)
    for path in (WEIGHTS, DATA):
        print(f"{path.name}: {path.stat().st_size} bytes")


def train(images: Tensor, labels: Tensor) -> DigitsNet:
    """A net trained on (count, 1, 8, 8) inputs, in eval mode."""
    model = DigitsNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            loss = nn.functional.cross_entropy(model(augment(images[batch])), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def augment(images: Tensor) -> Tensor:
    """Each image turned by up to 12 degrees, scaled and sheared by up to 10 %, moved by up to one pixel."""
    count = len(images)
    angle = (torch.rand(count) * 2 - 1) * torch.pi / 15
    scale = 1 + (torch.rand(count) * 2 - 1) * 0.1
    shear = (torch.rand(count) * 2 - 1) * 0.1
    shift = (torch.rand(count, 2) * 2 - 1) * 2 / images.shape[-1]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = torch.stack((cos, shear - sin, shift[:, 0], sin, cos, shift[:, 1]), dim=1)
    grid = nn.functional.affine_grid(rows.view(count, 2, 3), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)


def _split() -> tuple[Images, Labels, Images, Labels]:
    """Shuffled training images (NHWC) with labels, then the held-out ones."""
    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    order = torch.randperm(len(images) - TEST_COUNT).numpy()
    return images[order], labels[order], images[-TEST_COUNT:], labels[-TEST_COUNT:]


if __name__ == "__main__":
    main()
