"""Full-size models have the names and shapes of torchvision's checkpoints, the parameter counts it publishes,
and the first, last and odd entries of its state dicts."""

import pytest
import torch
from fxedge.models import get
from torch import nn

COUNTS = {
    "resnet18": (11689512, 122),
    "resnet34": (21797672, 218),
    "resnet50": (25557032, 320),
    "mobilenet_v2": (3504872, 314),
    "mobilenet_v3_small": (2542856, 244),
    "mobilenet_v3_large": (5483032, 312),
}
SHAPES = {
    "resnet18": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "layer1.1.conv2.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.running_var": (128,),
        "layer4.1.bn2.num_batches_tracked": (),
        "fc.weight": (1000, 512),
        "fc.bias": (1000,),
    },
    "resnet34": {
        "conv1.weight": (64, 3, 7, 7),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "fc.weight": (1000, 512),
        "fc.bias": (1000,),
    },
    "resnet50": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.conv3.weight": (1024, 256, 1, 1),
        "layer4.2.bn3.weight": (2048,),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    },
    "mobilenet_v2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.running_var": (16,),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.18.1.num_batches_tracked": (),
        "classifier.1.weight": (1000, 1280),
        "classifier.1.bias": (1000,),
    },
    "mobilenet_v3_small": {
        "features.0.0.weight": (16, 3, 3, 3),
        "features.1.block.0.0.weight": (16, 1, 3, 3),
        "features.1.block.1.fc1.weight": (8, 16, 1, 1),
        "features.1.block.2.1.running_mean": (16,),
        "features.4.block.2.fc1.weight": (24, 96, 1, 1),
        "features.11.block.3.0.weight": (96, 576, 1, 1),
        "features.12.0.weight": (576, 96, 1, 1),
        "classifier.0.weight": (1024, 576),
        "classifier.3.weight": (1000, 1024),
        "classifier.3.bias": (1000,),
    },
    "mobilenet_v3_large": {
        "features.0.0.weight": (16, 3, 3, 3),
        "features.1.block.1.0.weight": (16, 16, 1, 1),
        "features.4.block.2.fc2.bias": (72,),
        "features.7.block.1.0.weight": (240, 1, 3, 3),
        "features.15.block.3.1.weight": (160,),
        "features.16.0.weight": (960, 160, 1, 1),
        "classifier.0.weight": (1280, 960),
        "classifier.3.weight": (1000, 1280),
        "classifier.3.bias": (1000,),
    },
}


@pytest.fixture(scope="module", params=COUNTS)
def named(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    return request.param, get(request.param).factory()


def test_parameter_and_entry_counts(named):
    name, model = named
    assert (sum(p.numel() for p in model.parameters()), len(model.state_dict())) == COUNTS[name]


def test_names_and_shapes(named):
    name, model = named
    state = model.state_dict()
    assert {key: tuple(state[key].shape) for key in SHAPES[name] if key in state} == SHAPES[name]
    assert (next(iter(state)), list(state)[-1]) == (next(iter(SHAPES[name])), list(SHAPES[name])[-1])


def test_batch_norm_constants(named):
    name, model = named
    found = {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert found == ({(0.001, 0.01)} if "v3" in name else {(1e-5, 0.1)})


def test_runs_on_a_small_image(named):
    _, model = named
    with torch.inference_mode():
        logits = model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 1000)
    assert logits.isfinite().all()
