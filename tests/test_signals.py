"""Laws of the sources of images: what goes in comes out, nothing else is read or written, and bad input is one clear line."""

import gzip
import io
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from neuralfield.errors import NeuralfieldError, NeuralfieldWarning, UsageError
from neuralfield.signals.image_folder import image_folder
from neuralfield.signals.images import Images, resized, with_channels
from neuralfield.signals.mnist_mini import mnist_mini
from neuralfield.signals.npz import npz
from neuralfield.signals.signals import load
from neuralfield.signals.torchvision_sets import cifar10, fashion_mnist, mnist

DATA = Path(os.environ.get("NF_DATA") or Path(__file__).parents[2] / "shared" / "data")
needs_mnist = pytest.mark.skipif(
    not (DATA / "mnist").is_dir(), reason=f"no real MNIST in {DATA}/mnist; NF_DATA names another folder"
)


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def fails(error: type[NeuralfieldError], make: Callable[[], Any], *words: object) -> None:
    """`make` ends in one line that says all of `words`."""
    with pytest.raises(error) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def listing(root: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*"))


# images


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))), st.integers(0, 3))
def test_8_bit_values_round_trip_exactly_and_padding_only_adds_zeros_around(pixels: np.ndarray, pad: int) -> None:
    images = Images.from_arrays(pixels, pad=pad)
    n, height, width, _ = pixels.shape
    values = images.truth(torch.arange(n)).values.reshape(n, height + 2 * pad, width + 2 * pad, -1)
    inside = values[:, pad : pad + height, pad : pad + width]
    assert np.array_equal((inside * 255).round().to(torch.uint8).numpy(), pixels)
    assert torch.equal(inside, torch.from_numpy(pixels).float() / 255)
    outside = values.clone()
    outside[:, pad : pad + height, pad : pad + width] = 0
    assert not outside.any()


def test_images_do_not_share_memory_with_the_array_they_came_from() -> None:
    pixels = random_pixels(2, 3, 3)
    images = Images.from_arrays(pixels)
    before = images.pixels.clone()
    pixels[:] = 0
    assert torch.equal(images.pixels, before)


def test_a_read_only_array_brings_no_warning() -> None:
    pixels = random_pixels(2, 3, 3)
    pixels.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Images.from_arrays(pixels)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.complex64])
def test_arrays_whose_range_is_unknown_are_refused(dtype: type) -> None:
    fails(NeuralfieldError, lambda: Images.from_arrays(np.zeros((1, 2, 2), dtype)), np.dtype(dtype), "uint8", "floating point")


def test_a_value_that_is_not_finite_is_named_at_its_place_before_resizing() -> None:
    images = np.zeros((3, 4, 4), np.float32)
    images[1, 2, 3] = np.nan
    fails(NeuralfieldError, lambda: Images.from_arrays(images, ids=["a", "b", "c"], resize=8), "image b", "row 2", "column 3")


@pytest.mark.parametrize(("have", "channels"), [(have, channels) for have in (1, 2, 3, 4) for channels in (1, 3, 4)])
@pytest.mark.parametrize("mode", ["uint8", "float"])
def test_channels_convert_as_pillow_does(have: int, channels: int, mode: str) -> None:
    pixels = random_pixels(1, 5, 6, have)
    names = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    image = Image.fromarray(pixels[0, ..., 0] if have == 1 else pixels[0], names[have])
    expected = np.asarray(image.convert(names[channels])).reshape(5, 6, channels).astype(float)
    given = torch.from_numpy(pixels) if mode == "uint8" else torch.from_numpy(pixels).float() / 255
    converted = with_channels(given, channels)
    assert converted.dtype == given.dtype
    values = converted[0].float().numpy() * (1 if mode == "uint8" else 255)
    # Pillow's luma has 16-bit weights, so a rounding may fall to the other side (and floats are not rounded at all)
    np.testing.assert_allclose(values, expected, atol=1)


def test_grey_survives_colour_and_back() -> None:
    grey = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    assert torch.equal(with_channels(with_channels(grey, 3), 1), grey)
    assert torch.equal(with_channels(with_channels(grey, 4), 1), grey)


@pytest.mark.parametrize(("have", "channels"), [(3, 2), (3, 0), (5, 3)])
def test_channels_that_mean_nothing_are_refused(have: int, channels: int) -> None:
    fails(UsageError, lambda: with_channels(torch.zeros(1, 2, 2, have), channels), "signals.channels", have, channels)


def test_resizing_to_the_same_size_changes_nothing_and_a_constant_stays_constant() -> None:
    pixels = torch.from_numpy(random_pixels(2, 6, 8, 3))
    assert torch.equal(resized(pixels, [6, 8]), pixels)
    constant = torch.full((1, 6, 8, 1), 77, dtype=torch.uint8)
    for size in ([3, 4], [12, 10], 5):
        small = resized(constant, size)
        assert small.dtype == torch.uint8
        assert (small == 77).all()
        assert list(small.shape[1:3]) == (size if isinstance(size, list) else [size, size])


def test_halving_a_checkerboard_gives_grey_because_of_the_antialiasing() -> None:
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2).float()[None, ..., None]
    assert torch.allclose(resized(board, 8)[:, 1:-1, 1:-1], torch.tensor(0.5), atol=1e-6)


@pytest.mark.parametrize("size", [0, -3, 2.5, "28", [28], [28, 0], [1, 2, 3], [1.5, 2]])
def test_a_size_that_means_nothing_is_refused(size: Any) -> None:
    fails(UsageError, lambda: resized(torch.zeros(1, 2, 2, 1), size), "signals.resize", "[height, width]")


def test_padding_comes_after_resizing() -> None:
    images = Images.from_arrays(np.full((1, 4, 4), 255, np.uint8), pad=2, resize=8)
    assert images.pixels.shape == (1, 12, 12, 1)
    assert (images.pixels[:, 2:-2, 2:-2] == 255).all()
    assert int((images.pixels > 0).sum()) == 64


# mnist-mini


@pytest.mark.parametrize(("split", "each"), [("train", 200), ("test", 50)])
def test_mnist_mini_holds_as_many_of_each_digit(split: str, each: int) -> None:
    images = mnist_mini(split)
    assert images.pixels.shape == (10 * each, 28, 28, 1)
    assert images.pixels.dtype == torch.uint8
    assert images.labels is not None
    assert images.labels.bincount().tolist() == [each] * 10
    assert images.ids == sorted(set(images.ids))


@needs_mnist
@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_mini_is_a_part_of_the_original(split: str) -> None:
    whole, part = mnist(str(DATA / "mnist"), split), mnist_mini(split)
    index = [whole.ids.index(i) for i in part.ids]
    assert whole.labels is not None
    assert part.labels is not None
    assert torch.equal(whole.pixels[index], part.pixels)
    assert torch.equal(whole.labels[index], part.labels)


def test_mnist_mini_takes_padding_size_and_channels() -> None:
    assert mnist_mini("test", pad=2, resize=[14, 20], channels=3).pixels.shape == (500, 18, 24, 3)


# mnist and fashion-mnist


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_idx(root: Path, name: str = "MNIST", zipped: bool = True, n: int = 7) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    made = {}
    for seed, (split, prefix) in enumerate((("train", "train"), ("test", "t10k"))):
        images, labels = random_pixels(n + seed, 28, 28, seed=seed), random_pixels(n + seed, seed=seed) % 10
        for file, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            if zipped:
                (folder / f"{file}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / file).write_bytes(idx(array))
        made[split] = images, labels
    return made


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("make", "name"), [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_idx_files_are_read_as_they_lie_and_nothing_is_written(
    tmp_path: Path, make: Callable[..., Images], name: str, split: str, zipped: bool
) -> None:
    expected = write_idx(tmp_path, name, zipped)[split]
    before = listing(tmp_path)
    images = make(str(tmp_path), split)
    assert listing(tmp_path) == before
    assert np.array_equal(images.pixels[..., 0].numpy(), expected[0])
    assert images.labels is not None
    assert images.labels.tolist() == expected[1].tolist()
    assert images.ids[0] == f"{split}-00000"


@needs_mnist
def test_the_real_mnist_is_read_from_its_gz_files_alone() -> None:
    root = DATA / "mnist"
    before = listing(root)
    images = mnist(str(root), "test")
    assert listing(root) == before
    assert images.pixels.shape == (10000, 28, 28, 1)
    assert images.labels is not None
    assert images.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]  # as printed in every tutorial


def test_torchvision_reads_the_same_from_the_same_files(tmp_path: Path) -> None:
    from torchvision import datasets

    write_idx(tmp_path, zipped=False)
    ours, theirs = mnist(str(tmp_path)), datasets.MNIST(tmp_path)
    assert torch.equal(ours.pixels[..., 0], theirs.data)
    assert ours.labels is not None
    assert torch.equal(ours.labels, theirs.targets)


def test_a_missing_root_or_file_is_named(tmp_path: Path) -> None:
    fails(NeuralfieldError, lambda: mnist(str(tmp_path / "none")), tmp_path / "none")
    fails(NeuralfieldError, lambda: mnist(str(tmp_path)), tmp_path, "train-images-idx3-ubyte.gz", "ROOT/MNIST/raw")
    fails(NeuralfieldError, lambda: cifar10(str(tmp_path)), tmp_path, "cifar-10-batches-bin")


@pytest.mark.parametrize("make", [mnist, fashion_mnist, cifar10, mnist_mini])
def test_an_unknown_split_is_refused_with_the_two_there_are(make: Callable[..., Images]) -> None:
    fails(UsageError, lambda: make(split="tset"), '"tset"', "train and test", 'did you mean "test"')


def corrupted(data: bytes) -> bytes:
    return data[:100] + bytes(50) + data[150:]


DAMAGES = [lambda data: data[:-20], lambda data: data[:10], lambda data: b"", lambda data: b"<html>"]


# changed pixels in an unpacked file cannot be noticed: it has no checksum
@pytest.mark.parametrize(
    ("damage", "zipped"), [(corrupted, True), *((damage, zipped) for damage in DAMAGES for zipped in (True, False))]
)
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_damaged_idx_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], zipped: bool, file: str) -> None:
    write_idx(tmp_path, zipped=zipped, n=200)
    path = tmp_path / "MNIST" / "raw" / (f"{file}.gz" if zipped else file)
    path.write_bytes(damage(path.read_bytes()))
    fails(NeuralfieldError, lambda: mnist(str(tmp_path)), path, "damaged", "fetch")


def test_labels_that_are_not_one_per_image_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(random_pixels(3))))
    fails(NeuralfieldError, lambda: mnist(str(tmp_path)), "train-labels-idx1-ubyte", "3 labels for 7 images")


# the cache


def refuse(*_: Any, **__: Any) -> None:
    raise URLError("[Errno -2] Name or service\nnot known")


@pytest.mark.parametrize(("kind", "make"), [("mnist", mnist), ("fashion-mnist", fashion_mnist), ("cifar10", cifar10)])
def test_offline_the_message_names_the_embedded_set_and_the_root(
    kind: str, make: Callable[..., Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NF_CACHE", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", refuse)
    for _ in range(2):  # what the first try leaves behind does not change what the second one says
        fails(NeuralfieldError, make, "mnist-mini", f"{kind}:ROOT", tmp_path, "Name or service not known")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_set_is_downloaded_once_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetch(url: str, download_root: str, filename: str, md5: str) -> None:
        calls.append((filename, md5))
        images, axes = random_pixels(3, 28, 28), 3 if "images" in filename else 1
        (Path(download_root) / filename.removesuffix(".gz")).write_bytes(idx(images if axes == 3 else images[:, 0, 0] % 10))

    monkeypatch.setenv("NF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fetch)
    first, second = mnist(), mnist()
    assert torch.equal(first.pixels, second.pixels)
    assert len(mnist(split="test")) == 3
    assert len(calls) == 4
    assert all(md5 for _, md5 in calls)
    assert {path.name for path in (tmp_path / "cache" / "MNIST").iterdir()} == {"raw"}


def test_cifar10_is_downloaded_in_its_binary_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetch(url: str, download_root: Path, md5: str, remove_finished: bool) -> None:
        calls.append((url, md5))
        write_cifar(Path(download_root), python=False)

    monkeypatch.setenv("NF_CACHE", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    assert len(cifar10()) == 10
    assert len(cifar10(split="test")) == 2
    assert len(calls) == 1
    assert "binary" in calls[0][0]


# cifar10

CIFAR = {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]}


def write_cifar(root: Path, python: bool) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Two photographs per batch."""
    folder = root / ("cifar-10-batches-py" if python else "cifar-10-batches-bin")
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for split, batches in CIFAR.items():
        images = random_pixels(2 * len(batches), 32, 32, 3, seed=len(batches))
        labels = [i % 10 for i in range(len(images))]
        for k, batch in enumerate(batches):
            planes = np.ascontiguousarray(images[2 * k : 2 * k + 2].transpose(0, 3, 1, 2)).reshape(2, -1)
            if python:
                content = {"data": planes, "labels": labels[2 * k : 2 * k + 2], "batch_label": batch}
                (folder / batch).write_bytes(pickle.dumps(content, protocol=4))
            else:
                records = np.concatenate([np.array(labels[2 * k : 2 * k + 2], np.uint8)[:, None], planes], 1)
                (folder / f"{batch}.bin").write_bytes(records.tobytes())
        made[split] = images, labels
    return made


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar10_is_read_from_either_version_and_nothing_is_written(tmp_path: Path, python: bool, split: str) -> None:
    expected, labels = write_cifar(tmp_path, python)[split]
    before = listing(tmp_path)
    images = cifar10(str(tmp_path), split)
    assert listing(tmp_path) == before
    assert np.array_equal(images.pixels.numpy(), expected)
    assert images.labels is not None
    assert images.labels.tolist() == labels


def python_2_batch(planes: np.ndarray, labels: list[int]) -> bytes:
    """As the published files were written: by Python 2 at protocol 2, whose strings are 8 bit; numpy's array as cPickle put it."""
    raw = planes.tobytes()
    out = io.BytesIO()
    out.write(b"\x80\x02}(U\x04data")
    out.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01")
    out.write(b"K" + bytes([len(planes)]) + b"M" + planes.shape[1].to_bytes(2, "little") + b"\x86")
    out.write(b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
    out.write(b"T" + len(raw).to_bytes(4, "little") + raw + b"tb")
    out.write(b"U\x06labels](" + b"".join(b"K" + bytes([label]) for label in labels) + b"eu.")
    return out.getvalue()


def test_a_batch_as_python_2_wrote_it_is_read(tmp_path: Path) -> None:
    expected, _ = write_cifar(tmp_path, python=True)["test"]
    planes = expected.transpose(0, 3, 1, 2).reshape(2, -1)
    data = python_2_batch(planes, [3, 9])
    assert np.array_equal(pickle.loads(data, encoding="latin1")["data"], planes)  # the test's own writer is right
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(data)
    images = cifar10(str(tmp_path), "test")
    assert np.array_equal(images.pixels.numpy(), expected)
    assert images.labels is not None
    assert images.labels.tolist() == [3, 9]


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_batch_cannot_run_code(tmp_path: Path) -> None:
    write_cifar(tmp_path, python=True)
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    file.write_bytes(pickle.dumps({"data": Malicious(tmp_path / "made"), "labels": [1]}))
    fails(NeuralfieldError, lambda: cifar10(str(tmp_path), "test"), file, "damaged")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: b"", lambda data: b"<html>"])
def test_a_damaged_batch_is_named(tmp_path: Path, python: bool, damage: Callable[[bytes], bytes]) -> None:
    write_cifar(tmp_path, python)
    file = next(tmp_path.rglob("data_batch_3*"))
    file.write_bytes(damage(file.read_bytes()))
    fails(NeuralfieldError, lambda: cifar10(str(tmp_path)), file, "damaged", "fetch")


# folders of images


def save(path: Path, pixels: np.ndarray | None = None, mode: str | None = None) -> np.ndarray:
    pixels = random_pixels(4, 5, seed=len(str(path))) if pixels is None else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return pixels


def test_png_values_round_trip_exactly_in_sorted_order(tmp_path: Path) -> None:
    made = {name: save(tmp_path / f"{name}.png", random_pixels(4, 5, 3, seed=k)) for k, name in enumerate(["b", "a.2", "c"])}
    (tmp_path / "notes.txt").write_text("no image")
    save(tmp_path / ".hidden.png")
    images = image_folder(str(tmp_path))
    assert images.ids == ["a.2", "b", "c"]
    assert images.labels is None
    assert np.array_equal(images.pixels.numpy(), np.stack([made[name] for name in images.ids]))


def test_a_single_file_is_a_set_of_one(tmp_path: Path) -> None:
    pixels = save(tmp_path / "digit.png")
    images = load(str(tmp_path / "digit.png"))
    assert images.ids == ["digit"]
    assert isinstance(images, Images)
    assert np.array_equal(images.pixels[0, ..., 0].numpy(), pixels)


def test_jpeg_is_read_with_any_ending_of_its_own(tmp_path: Path) -> None:
    flat = np.full((8, 8, 3), 130, np.uint8)
    for name in ("a.jpg", "b.jpeg", "c.JPG"):
        save(tmp_path / name, flat)
    images = image_folder(str(tmp_path))
    assert len(images) == 3
    assert (images.pixels.int() - 130).abs().max() <= 1  # JPEG is not exact, even where it is flat


def test_files_that_differ_in_their_ending_have_names_of_their_own(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.png"):
        save(tmp_path / name)
    assert image_folder(str(tmp_path)).ids == ["a.jpg", "a.png", "b"]


def test_split_folders_answer_to_the_split_and_raw_is_not_read(tmp_path: Path) -> None:
    train, test = save(tmp_path / "train" / "a.png"), save(tmp_path / "test" / "bb.png")
    save(tmp_path / "raw" / "c.png")
    save(tmp_path / "train" / "raw" / "d.png")
    for split, name, pixels in (("train", "train/a", train), ("test", "test/bb", test)):
        images = image_folder(str(tmp_path), split)
        assert images.ids == [name]
        assert np.array_equal(images.pixels[0, ..., 0].numpy(), pixels)
    fails(UsageError, lambda: image_folder(str(tmp_path), "raw"), "train and test")


def test_without_split_folders_both_splits_are_all(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "raw" / "b.png")
    assert image_folder(str(tmp_path), "train").ids == image_folder(str(tmp_path), "test").ids == ["a"]


def test_one_split_folder_alone_does_not_answer_for_the_other(tmp_path: Path) -> None:
    save(tmp_path / "train" / "a.png")
    fails(NeuralfieldError, lambda: image_folder(str(tmp_path), "test"), tmp_path, "no test/", "--split train")


def test_folders_of_classes_give_labels_by_sorted_name(tmp_path: Path) -> None:
    for name in ("dog/1", "cat/2", "cat/1", "emu/1", "raw/1"):
        save(tmp_path / f"{name}.png")
    images = image_folder(str(tmp_path))
    assert images.ids == ["cat/1", "cat/2", "dog/1", "emu/1"]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 0, 1, 2]


def test_a_class_has_the_same_label_in_both_splits(tmp_path: Path) -> None:
    for name in ("train/cat/1", "train/dog/1", "train/emu/1", "test/emu/1", "test/cow/1"):
        save(tmp_path / f"{name}.png")
    train, test = image_folder(str(tmp_path), "train"), image_folder(str(tmp_path), "test")
    assert train.labels is not None
    assert test.labels is not None
    assert dict(zip(train.ids, train.labels.tolist(), strict=True))["train/emu/1"] == 3
    assert dict(zip(test.ids, test.labels.tolist(), strict=True)) == {"test/cow/1": 1, "test/emu/1": 3}


def test_images_in_the_folder_itself_come_before_folders_of_classes(tmp_path: Path) -> None:
    for name in ("a", "cat/1"):
        save(tmp_path / f"{name}.png")
    images = image_folder(str(tmp_path))
    assert images.ids == ["a"]
    assert images.labels is None


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("1", 1), ("P", 3)])
def test_modes_have_their_channels(tmp_path: Path, mode: str, channels: int) -> None:
    save(tmp_path / "a.png", random_pixels(4, 5, 3), mode)
    assert image_folder(str(tmp_path)).pixels.shape == (1, 4, 5, channels)


def test_black_and_white_is_0_and_255(tmp_path: Path) -> None:
    pixels = np.array([[0, 255], [255, 0]], np.uint8)
    save(tmp_path / "a.png", pixels, "1")
    assert np.array_equal(image_folder(str(tmp_path)).pixels[0, ..., 0].numpy(), pixels)


def test_a_palette_gives_its_colours_and_its_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert image_folder(str(tmp_path / "opaque.png")).pixels[0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert image_folder(str(tmp_path / "clear.png")).pixels[0, 0].tolist() == [[255, 0, 0, 255], [0, 0, 255, 0]]


def test_16_bit_grey_is_scaled_to_the_unit_interval_also_beside_8_bit(tmp_path: Path) -> None:
    deep = np.array([[0, 1, 65535, 32768]], np.uint16)
    save(tmp_path / "a.png", deep)
    save(tmp_path / "b.png", np.array([[0, 255, 51, 102]], np.uint8))
    values = image_folder(str(tmp_path)).truth(torch.arange(2)).values[..., 0]
    np.testing.assert_allclose(values[0], deep[0] / 65535, rtol=1e-6)
    np.testing.assert_allclose(values[1], [0, 1, 0.2, 0.4], rtol=1e-6)


def test_the_orientation_of_a_camera_is_obeyed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    pixels = random_pixels(4, 6)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(image_folder(str(tmp_path)).pixels[0, ..., 0].numpy(), np.rot90(pixels, -1))


def test_mixed_channels_are_refused_by_name_and_converted_on_demand(tmp_path: Path) -> None:
    save(tmp_path / "a.png", random_pixels(4, 5))
    save(tmp_path / "b.png", random_pixels(4, 5, 3))
    words = ["a.png has 1", "b.png has 3", "--set signals.channels=1 (or 3)", tmp_path]
    fails(NeuralfieldError, lambda: image_folder(str(tmp_path)), *words)
    for channels in (1, 3, 4):
        assert image_folder(str(tmp_path), channels=channels).pixels.shape == (2, 4, 5, channels)


def test_mixed_sizes_are_refused_by_name_and_resized_on_demand(tmp_path: Path) -> None:
    save(tmp_path / "a.png", random_pixels(4, 5))
    save(tmp_path / "b.png", random_pixels(6, 7))
    words = ["a.png is 4 pixels high and 5 wide", "b.png is 6 high and 7 wide", "--set signals.resize=[4,5]", tmp_path]
    fails(NeuralfieldError, lambda: image_folder(str(tmp_path)), *words)
    assert image_folder(str(tmp_path), resize=[4, 5]).pixels.shape == (2, 4, 5, 1)
    assert image_folder(str(tmp_path), resize=8, pad=1).pixels.shape == (2, 10, 10, 1)


def damaged_pngs(folder: Path) -> dict[str, str]:
    """Broken files by name, with a word of what is wrong."""
    save(folder / "good.png", random_pixels(40, 50))
    whole = (folder / "good.png").read_bytes()
    broken = {"empty.png": b"", "half.png": whole[: len(whole) // 2], "text.jpg": b"hello", "stub.png": whole[:20]}
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    (folder / "link.png").symlink_to(folder / "nowhere")
    return {
        "empty.png": "it is empty",
        "half.png": "truncated",
        "text.jpg": "neither PNG nor JPEG",
        "stub.png": "",
        "link.png": "No such file",
    }


@pytest.mark.parametrize("name", ["empty.png", "half.png", "text.jpg", "stub.png", "link.png"])
def test_a_broken_file_is_named_with_the_cause_and_the_way_out(tmp_path: Path, name: str) -> None:
    cause = damaged_pngs(tmp_path)[name]
    for other in tmp_path.iterdir():
        if other.name not in (name, "good.png"):
            other.unlink()
    fails(NeuralfieldError, lambda: image_folder(str(tmp_path)), tmp_path / name, cause, "--skip-bad")


def test_skip_bad_leaves_broken_files_out_and_names_them_once(tmp_path: Path) -> None:
    broken = damaged_pngs(tmp_path)
    save(tmp_path / "cat.png", random_pixels(40, 50, seed=1))
    with pytest.warns(UserWarning, match="left out 5 of 7") as caught:
        images = image_folder(str(tmp_path), skip_bad=True)
    assert images.ids == ["cat", "good"]
    assert len(caught) == 1
    assert all(name in str(caught[0].message) for name in broken)


def test_skip_bad_lists_five_names_and_keeps_labels_aligned(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save(tmp_path / name / "9.png")
        for k in range(4):
            (tmp_path / name / f"{k}.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"cat/0.png, cat/1.png, cat/2.png, cat/3.png, dog/0.png and 3 more$"):
        images = image_folder(str(tmp_path), skip_bad=True)
    assert images.ids == ["cat/9", "dog/9"]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1]


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    fails(NeuralfieldError, lambda: image_folder(str(tmp_path), skip_bad=True), tmp_path / "a.png", "none of the 1 images", "empty")


def test_a_missing_path_an_empty_folder_and_a_file_that_is_no_image_are_one_line_each(tmp_path: Path) -> None:
    fails(NeuralfieldError, lambda: image_folder(str(tmp_path / "none")), tmp_path / "none")
    fails(NeuralfieldError, lambda: image_folder(str(tmp_path)), tmp_path, "no PNG or JPEG")
    (tmp_path / "notes.txt").write_text("hello")
    fails(NeuralfieldError, lambda: image_folder(str(tmp_path)), tmp_path, "no PNG or JPEG")
    fails(NeuralfieldError, lambda: image_folder(str(tmp_path / "notes.txt")), tmp_path / "notes.txt", "neither PNG nor JPEG")
    (tmp_path / "raw").mkdir()
    save(tmp_path / "raw" / "a.png")
    fails(NeuralfieldError, lambda: image_folder(str(tmp_path)), "raw/ is never read")


# npz


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 1), (3, 4, 5, 3)])
def test_8_bit_arrays_round_trip_with_their_labels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels, labels = random_pixels(*shape), np.array([5, 0, 7], np.int32)
    np.savez_compressed(tmp_path / "a.npz", images=pixels, labels=labels)
    images = npz(str(tmp_path / "a.npz"))
    assert isinstance(images, Images)
    assert np.array_equal(images.pixels.numpy().reshape(shape), pixels)
    assert images.labels is not None
    assert images.labels.tolist() == [5, 0, 7]


@pytest.mark.filterwarnings("ignore::neuralfield.errors.NeuralfieldWarning")  # values beyond [0, 1] are what is tested
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.dtype(">f4")])
def test_floating_point_is_taken_as_it_is(tmp_path: Path, dtype: Any) -> None:
    values = np.array([[[-1.5, 0.25], [3.0, 0.0]]]).astype(dtype)
    np.savez(tmp_path / "a.npz", images=values)
    images = npz(str(tmp_path / "a.npz"))
    assert images.truth(torch.arange(1)).values[0, :, 0].tolist() == [-1.5, 0.25, 3.0, 0.0]
    assert images.labels is None


def test_values_on_another_scale_are_taken_with_a_warning() -> None:
    with pytest.warns(NeuralfieldWarning, match=r"\[0, 255\].*divide them"):
        Images.from_arrays(np.array([[[0.0, 255.0]]]))


def test_the_split_chooses_its_own_arrays(tmp_path: Path) -> None:
    pixels = random_pixels(5, 4, 4)
    made = {
        "images_train": pixels[:3],
        "images_test": pixels[3:],
        "labels_train": np.array([1, 2, 3]),
        "labels_test": np.array([8, 9]),
    }
    np.savez(tmp_path / "a.npz", allow_pickle=False, **made)
    train, test = npz(str(tmp_path / "a.npz"), "train"), npz(str(tmp_path / "a.npz"), "test")
    assert isinstance(test, Images)
    assert np.array_equal(test.pixels[..., 0].numpy(), pixels[3:])
    assert (train.ids, test.ids) == (["train-00000", "train-00001", "train-00002"], ["test-00000", "test-00001"])
    assert train.labels is not None
    assert test.labels is not None
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 2, 3], [8, 9])


def test_an_array_without_splits_is_train_and_test_alike(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=random_pixels(2, 3, 3))
    assert npz(str(tmp_path / "a.npz"), "test").ids == npz(str(tmp_path / "a.npz"), "train").ids
    fails(UsageError, lambda: npz(str(tmp_path / "a.npz"), "val"), "train and test")


def test_npz_takes_padding_size_and_channels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=random_pixels(2, 3, 3))
    images = npz(str(tmp_path / "a.npz"), pad=1, resize=[6, 8], channels=3)
    assert images.domain_arguments == {"height": 8, "width": 10, "channels": 3}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": np.zeros((1, 2, 2))}, ["images", "pictures"]),
        ({"images_test": np.zeros((1, 2, 2))}, ["images_train", "images_test"]),
        ({"images": np.zeros((2, 2))}, ["[n, h, w]", "[2, 2]"]),
        ({"images": np.zeros((1, 1, 2, 2, 1))}, ["[n, h, w]", "[1, 1, 2, 2, 1]"]),
        ({"images": np.array(3.0)}, ["images", "single value"]),
        ({"images": np.zeros((0, 2, 2))}, ["no images"]),
        ({"images": np.zeros((1, 0, 2))}, ["[1, 0, 2]"]),
        ({"images": np.zeros((1, 2, 2), np.int64)}, ["int64", "uint8"]),
        ({"images": np.array([["a", "b"]])[None]}, ["<U1", "uint8"]),
        ({"images": np.full((1, 2, 2), np.nan)}, ["nan"]),
        ({"images": np.zeros((2, 2, 2)), "labels": np.zeros(3, int)}, ["2 images", "3 labels"]),
        ({"images": np.zeros((2, 2, 2)), "labels": np.array(["a", "b"])}, ["labels", "whole numbers"]),
        ({"images": np.zeros((2, 2, 2)), "labels": np.array([0.5, 1])}, ["labels", "whole numbers"]),
        ({"images": np.zeros((2, 2, 2)), "labels": np.zeros((2, 2), int)}, ["labels", "[2, 2]"]),
        ({"images": np.array([[[Path()]]])}, ['array "images"', "Object arrays cannot be loaded", "as numbers"]),
        ({"images": np.zeros((2, 2, 2)), "labels": np.array([None, 1])}, ['array "labels"', "as numbers"]),
    ],
)
def test_arrays_that_do_not_fit_are_one_line_with_the_file(tmp_path: Path, arrays: dict[str, Any], words: list[str]) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays)
    fails(NeuralfieldError, lambda: npz(str(tmp_path / "a.npz")), tmp_path / "a.npz", *words)


def test_a_file_that_is_no_npz_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    fails(NeuralfieldError, lambda: npz(str(path)), path, "no such file")
    np.savez_compressed(path, images=random_pixels(20, 8, 8))
    whole = path.read_bytes()
    single = io.BytesIO()
    np.save(single, np.zeros((1, 2, 2)))
    for data in (whole[:-30], whole[: len(whole) // 2], b"", b"hello", pickle.dumps({"images": 1})):
        path.write_bytes(data)
        fails(NeuralfieldError, lambda: npz(str(path)), path, "not an .npz file, or is truncated")
    path.write_bytes(single.getvalue())
    fails(NeuralfieldError, lambda: npz(str(path)), path, "savez_compressed(file, images=array)")
    path.write_bytes(corrupted(whole))
    fails(NeuralfieldError, lambda: npz(str(path)), path, "images")


def test_a_setting_that_does_not_fit_stays_a_usage_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=random_pixels(2, 3, 3))
    fails(UsageError, lambda: npz(str(tmp_path / "a.npz"), resize=0), tmp_path / "a.npz", "signals.resize")


# by name


def test_sources_are_found_by_name_path_and_ending(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    np.savez(tmp_path / "b.npz", images=random_pixels(2, 3, 3))
    write_idx(tmp_path)
    assert load(f"images:{tmp_path}", pad=1).ids == load(str(tmp_path)).ids == ["a"]
    assert len(load(f"npz:{tmp_path}/b.npz")) == len(load(f"{tmp_path}/b.npz")) == 2
    assert len(load(f"mnist:{tmp_path}", split="test", limit=3)) == 3
    assert len(load("mnist-mini", split="test")) == 500
