from pathlib import Path

import numpy as np
import pytest
import torch
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.pipeline.data import Dataset, from_arrays, open_dataset
from fxedge.compiler.pipeline.preprocess import Preprocess
from PIL import Image
from safetensors.numpy import save_file
from torch.utils.data import DataLoader, TensorDataset

X = np.arange(20, dtype=np.float32).reshape(5, 4)
Y = np.array([0, 1, 2, 1, 0])
FORMS = "a numpy array or torch tensor, a tuple of the inputs in order, a dict by input name"
SHARED = Path(__file__).parents[3] / "../shared/data"


def read(dataset: Dataset) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Every input over the whole data, and the labels."""
    batches = list(iter(dataset))
    columns = zip(*(batch.inputs for batch in batches), strict=True)
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return [torch.cat(column) for column in columns], torch.cat(labels) if labels else None


def open_failure(spec: object, names: tuple[str, ...] = ("x",), **options: object) -> str:
    with pytest.raises(InputError) as caught:
        open_dataset(spec, Preprocess(**options), names, batch_size=2)
    return str(caught.value)


def read_failure(dataset: Dataset) -> str:
    with pytest.raises(InputError) as caught:
        read(dataset)
    return str(caught.value)


def memory_failure(data: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        from_arrays(data, **options)
    return str(caught.value)


def loader(path: Path, body: str) -> str:
    path.write_text(f"import numpy as np\nimport torch\n\ndef load():\n{body}\n")
    return f"{path}:load"


def test_npz_streams_in_batches_with_labels_and_again(tmp_path: Path):
    np.savez(tmp_path / "d.npz", x=X, labels=Y)
    dataset = open_dataset(tmp_path / "d.npz", Preprocess(scale=2), ["x"], batch_size=2)
    for _ in range(2):
        assert [len(batch.inputs[0]) for batch in dataset] == [2, 2, 1]
        inputs, labels = read(dataset)
        np.testing.assert_array_equal(inputs[0].numpy(), X * 2)
        assert labels.tolist() == Y.tolist()
    assert len(dataset) == dataset.count == 5
    assert dataset.labels.tolist() == Y.tolist()
    assert dataset.preprocess == Preprocess(scale=2, dtype="float32")


def test_a_limit_takes_the_first_samples(tmp_path: Path):
    np.save(tmp_path / "d.npy", X)
    dataset = open_dataset(tmp_path / "d.npy", Preprocess(), ["x"], batch_size=2, limit=3)
    assert len(dataset) == 3
    assert torch.equal(read(dataset)[0][0], torch.from_numpy(X[:3]))


@pytest.mark.parametrize(
    "names", [("pixels",), ("pixels", "labels"), ("images", "extra", "y"), ("only", "targets"), ("x", "extra")]
)
def test_one_input_is_found_by_name_alias_or_alone(tmp_path: Path, names: tuple[str, ...]):
    arrays = {name: X if i == 0 else Y for i, name in enumerate(names)}
    np.savez(tmp_path / "d.npz", **arrays)
    save_file(arrays, tmp_path / "d.safetensors")
    for path in (tmp_path / "d.npz", tmp_path / "d.safetensors"):
        inputs, labels = read(open_dataset(path, Preprocess(), ["pixels"], batch_size=8))
        assert torch.equal(inputs[0], torch.from_numpy(X))
        assert (labels is not None) == (names[-1] in ("labels", "y", "targets"))


def test_several_inputs_are_found_by_name_in_the_models_order(tmp_path: Path):
    np.savez(tmp_path / "d.npz", mask=Y, ids=X, y=Y + 1)
    inputs, labels = read(open_dataset(tmp_path / "d.npz", Preprocess(), ["ids", "mask"], batch_size=2))
    assert torch.equal(inputs[0], torch.from_numpy(X))
    assert torch.equal(inputs[1], torch.from_numpy(Y))
    assert labels.tolist() == [1, 2, 3, 2, 1]


def test_an_input_called_like_labels_is_the_input():
    inputs, labels = read(from_arrays({"y": X}, input_names=["y"]))
    assert torch.equal(inputs[0], torch.from_numpy(X))
    assert labels is None


def test_an_image_folder_is_uint8_nhwc_with_class_names(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "a.png")
    dataset = open_dataset(tmp_path, Preprocess(mean=(1, 2, 3), scale="1/255"), ["x"], batch_size=1)
    inputs, labels = read(dataset)
    expected = pixels.astype(np.float32) * np.float32(1 / 255) - np.array([1, 2, 3], np.float32)
    np.testing.assert_array_equal(inputs[0][0].numpy(), expected.transpose(2, 0, 1))
    assert (len(dataset), labels.tolist(), dataset.class_names) == (2, [0, 1], ("cat", "dog"))
    assert (dataset.preprocess.layout, dataset.preprocess.dtype) == ("NHWC", "uint8")


BODIES = {
    "yields arrays": "    for i in range(0, 5, 3):\n        yield X[i:i + 3]",
    "returns an array": "    return X",
    "returns a tensor": "    return torch.from_numpy(X).requires_grad_()",
    "returns a list": "    return [X[:1], X[1:]]",
    "returns tuples with labels": "    return [(X[:1], Y[:1]), (X[1:], Y[1:])]",
    "returns a dict": "    return {'x': X, 'labels': Y}",
    "yields dicts": "    yield {'images': X[:2], 'y': Y[:2]}\n    yield {'images': X[2:], 'y': list(Y[2:])}",
}


@pytest.mark.parametrize("form", BODIES)
def test_loaders_of_every_form_give_the_same_samples(tmp_path: Path, form: str):
    prelude = "    X = np.arange(20, dtype=np.float32).reshape(5, 4)\n    Y = np.array([0, 1, 2, 1, 0])\n"
    spec = loader(tmp_path / "l.py", prelude + BODIES[form])
    dataset = open_dataset(spec, Preprocess(), ["x"], batch_size=2, limit=4)
    for _ in range(2):
        inputs, labels = read(dataset)
        assert torch.equal(inputs[0], torch.from_numpy(X[:4]))
        assert labels is None or labels.tolist() == [0, 1, 2, 1]
    assert max(len(batch.inputs[0]) for batch in dataset) == 2
    assert (dataset.count, dataset.labels) == (None, None)
    with pytest.raises(TypeError, match="the number of samples is unknown until they are read"):
        len(dataset)


def test_what_a_python_program_holds():
    tensor = torch.from_numpy(X)
    pairs = TensorDataset(tensor, torch.from_numpy(Y))
    forms = [tensor, X, (X,), {"input": tensor}, [X[:2], X[2:]], lambda: iter([X]), tensor.to(torch.bfloat16)]
    for data in [*forms, DataLoader(pairs, batch_size=3), [(X, Y)]]:
        dataset = from_arrays(data, batch_size=2)
        for _ in range(2):
            assert torch.equal(read(dataset)[0][0], tensor)
    assert read(from_arrays(DataLoader(pairs, batch_size=3)))[1].tolist() == Y.tolist()
    assert read(from_arrays(X, labels=Y.tolist(), limit=2))[1].tolist() == [0, 1]
    assert len(from_arrays([X[:2], X[2:]], limit=4)) == 4
    assert len(from_arrays([X[:2], X[2:]])) == 5


def test_scores_stay_float_and_classes_become_int64():
    assert from_arrays(X, labels=np.linspace(0, 1, 5)).labels.dtype == np.float32
    assert from_arrays(X, labels=Y.astype(np.uint8)).labels.dtype == np.int64


def test_batches_never_share_memory_with_the_callers_arrays():
    data, labels = X.copy(), Y.copy()
    for batch in from_arrays(data, labels=labels):
        batch.inputs[0].add_(1)
        batch.labels.add_(1)
    np.testing.assert_array_equal(data, X)
    np.testing.assert_array_equal(labels, Y)


def test_the_fingerprint_is_of_the_content(tmp_path: Path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    save_file({"x": X, "labels": Y}, tmp_path / "d.safetensors")
    np.savez(tmp_path / "big.npz", x=X.astype(">f4"), y=Y)
    same = [
        open_dataset(tmp_path / name, Preprocess(), ["x"], batch_size=size).fingerprint()
        for name, size in (("d.npz", 2), ("d.safetensors", 3), ("big.npz", 5))
    ]
    same.append(from_arrays([(X[:1], Y[:1]), (X[1:], Y[1:])], input_names=["x"]).fingerprint())
    assert len(set(same)) == 1
    others = [
        from_arrays({"x": X}, input_names=["x"]),
        from_arrays({"x": X, "y": Y + 1}, input_names=["x"]),
        from_arrays({"x": X + 1, "y": Y}, input_names=["x"]),
        from_arrays({"x": X.reshape(5, 2, 2), "y": Y}, input_names=["x"]),
        from_arrays({"x": X.view(np.int32), "y": Y}, input_names=["x"]),
        from_arrays({"x": X, "y": Y}, input_names=["x"], limit=4),
        from_arrays({"z": X, "y": Y}, input_names=["z"]),
    ]
    assert len({same[0], *(dataset.fingerprint() for dataset in others)}) == 8


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_located(value: float):
    data = X.astype(np.float64)
    data[3, 1] = data[3, 2] = value
    assert read_failure(from_arrays(data, batch_size=2)) == (
        f"input 'input' of the given data is {value} at index [3, 1], and 2 value(s) of its batch are not finite "
        "in float32: all must be; take the samples out or repair them"
    )


def test_data_that_cannot_be_found_or_told(tmp_path: Path):
    (tmp_path / "d.csv").write_text("1,2")
    (tmp_path / "l.py").write_text("")
    forms = "give a folder of images, a .npy, .npz, .safetensors file, or file.py:loader"
    assert open_failure(tmp_path / "none.npz") == f"the data {tmp_path / 'none.npz'} do not exist: {forms}"
    assert open_failure(tmp_path / "d.csv") == (
        f"the data {tmp_path / 'd.csv'} are of an unknown kind (.csv): {forms}"
    )
    assert open_failure(tmp_path / "l.py") == (
        f"the data {tmp_path / 'l.py'} name a Python file, but no function in it: write {tmp_path / 'l.py'}:loader"
    )


def test_names_that_do_not_match_list_what_is_allowed(tmp_path: Path):
    path = tmp_path / "d.npz"
    labels = "and for labels one of y, labels, label, targets"
    np.savez(path, a=X, b=X)
    assert open_failure(path, ("pixels",)) == (
        f"{path} holds the arrays a, b; allowed: the model's input(s) pixels, or one of x, images, data, input; "
        f"{labels}"
    )
    assert open_failure(path, ("ids", "mask")) == (
        f"{path} holds the arrays a, b; allowed: the model's input(s) ids, mask; {labels}"
    )
    np.savez(path, x=X, images=X)
    assert open_failure(path, ("pixels",)).startswith(f"{path} holds the arrays x, images; allowed: ")
    np.savez(path, x=X, y=Y, labels=Y)
    assert open_failure(path) == f"{path} holds labels twice, as y and labels: keep one"
    np.savez(path)
    assert open_failure(path).startswith(f"{path} holds the arrays (none); allowed: ")


def test_arrays_that_do_not_fit_together(tmp_path: Path):
    path = tmp_path / "d.npz"
    np.savez(path, x=X, y=Y[:4])
    assert open_failure(path) == (
        f"{path} has arrays of unequal length (x has 5, labels has 4): all need one entry for each sample"
    )
    np.savez(path, x=X[:0])
    assert open_failure(path) == f"{path} holds no samples: the first axis of 'x' has length 0"
    np.savez(path, x=np.float32(3))
    assert open_failure(path) == f"'x' in {path} is a single number: the first axis must be the samples"
    np.save(tmp_path / "d.npy", X)
    assert open_failure(tmp_path / "d.npy", ("a", "b")) == (
        f"{tmp_path / 'd.npy'} holds one array, but the model has 2 inputs (a, b): "
        "use an .npz or .safetensors file with an array for each"
    )
    assert open_failure(tmp_path, ("a", "b")) == (
        f"the folder {tmp_path} gives one input, but the model has 2 (a, b): "
        "use an .npz or .safetensors file, or file.py:loader"
    )
    assert open_failure(tmp_path, dtype="float32") == (
        f"the folder {tmp_path} gives uint8 images in layout NHWC, but the declared layout is none and the dtype "
        "float32: declare NHWC and uint8, or neither"
    )


def test_batches_of_a_wrong_form(tmp_path: Path):
    def failing(body: str, *names: str) -> str:
        spec = loader(tmp_path / "l.py", body)
        return read_failure(open_dataset(spec, Preprocess(), names or ("x",), 2)).replace(spec, "L")

    assert failing("    return 3") == (
        f"L returned a value of type int; allowed: {FORMS}, or an iterable of such batches"
    )
    assert failing("    return iter(())") == "L gave no batches: it must give at least one in every pass"
    assert failing("    yield 'a'") == f"'x' in batch 0 of L is of type str; allowed: {FORMS}"
    assert failing("    yield np.zeros(2)\n    yield np.array(['a'])") == (
        "'x' in batch 1 of L holds str32; allowed: "
        "bool, uint8, int8, uint16, int16, int32, int64, float16, float32, float64"
    )
    assert failing("    yield np.zeros(2)", "a", "b") == (
        "batch 0 of L is one array, but the model has 2 inputs (a, b): give a tuple or a dict"
    )
    assert failing("    yield [np.zeros(2)] * 4", "a", "b") == (
        "batch 0 of L is a list of 4 items, but the model has 2 input(s) (a, b): "
        "give one array for each, and labels after them or not"
    )
    assert failing("    yield {'a': np.zeros(2), 'c': np.zeros(2)}", "a", "b") == (
        "batch 0 of L holds the arrays a, c; allowed: the model's input(s) a, b; "
        "and for labels one of y, labels, label, targets"
    )
    assert failing("    yield np.zeros(2)\n    1 / 0") == (
        f"{tmp_path / 'l.py'}, line 6: iterating over load() raised ZeroDivisionError: division by zero"
    )


def test_what_python_callers_get_wrong():
    assert memory_failure(iter([X])) == (
        "the given data is an iterator, which can be read only once: give a list or a function"
    )
    assert memory_failure([X], labels=Y) == (
        "the given data: labels are given beside batches; put them into each batch, as its last item"
    )
    assert memory_failure(3) == (f"the given data is of type int; allowed: {FORMS}, or a list of such batches")
    assert memory_failure(X, batch_size=0) == "the batch size is 0: it must be at least 1"
    assert memory_failure(X, limit=0) == "the limit of samples is 0: it must be at least 1"
    assert memory_failure(X, labels=[0.0, np.nan, 0, 0, 0]) == (
        "labels of the given data is nan at index [1], and 1 value(s) of its batch are not finite in float32: "
        "all must be; take the samples out or repair them"
    )


IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale="1/255", layout="NHWC")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not on this machine")
def test_real_data():
    calib = open_dataset(SHARED / "imagenet/calib", IMAGENET, ["x"], batch_size=4, limit=8)
    images, labels = read(calib)
    assert images[0].shape == (8, 3, 224, 224)
    assert labels.tolist() == calib.labels.tolist() == sorted(labels.tolist())
    assert len(open_dataset(SHARED / "imagenet/calib", IMAGENET, ["x"], batch_size=4)) == 128

    cifar = SHARED / "cifar10_resnet20"
    for name, count in (("calib_256.npz", 256), ("test_2000.npz", 2000)):
        dataset = open_dataset(cifar / name, IMAGENET, ["x"], batch_size=64)
        assert (len(dataset), len(dataset.labels)) == (count, count)
        assert next(iter(dataset)).inputs[0].shape == (64, 3, 32, 32)

    coco = open_dataset(SHARED / "yolox_nano/images", IMAGENET, ["x"], batch_size=2, limit=2)
    assert (next(iter(coco)).inputs[0].shape, coco.labels) == ((2, 3, 416, 416), None)

    pairs = open_dataset(SHARED / "minilm/stsb_dev.npz", Preprocess(), ["dev_a"], batch_size=8, limit=8)
    assert next(iter(pairs)).inputs[0].dtype is torch.int32
