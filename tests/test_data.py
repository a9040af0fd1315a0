"""Image sets: what notebooks cannot say about themselves. Photographs here are noise that PIL wrote a moment ago."""
import hashlib
import http.server
import io
import os
import pickle
import resource
import shutil
import threading
import warnings
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from acgan import data
from acgan.config import UserError


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, 2))
    monkeypatch.setenv("ACGAN_WORK", str(tmp_path / "work"))
    yield tmp_path / "work"
    torch.set_num_threads(threads)


def write(root, layout, side=12, suffix=".png"):
    noise = np.random.default_rng(sum(map(ord, "".join(layout))))
    for name, count in layout.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(noise.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(root / name / f"{i:03d}{suffix}")
    return root


def never(*args, **options):
    raise AssertionError("this should not have been called")


def refused(match, *args, **options):
    with pytest.raises(UserError, match=match) as error:
        data.load(*args, **options)
    assert "\n" not in str(error.value)


# ---- quantisation and statistics


def test_all_256_values_survive_the_round_trip():
    x = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(data.to_uint8(data.to_float(x)), x)
    y = np.random.default_rng(0).normal(0, 1, 10000).astype(np.float32)
    expected = np.round(np.clip((y.astype(np.float64) + 1) * 127.5, 0, 255))
    assert (data.to_uint8(torch.from_numpy(y)).numpy() == expected).mean() > 0.9999


def test_channel_statistics_agree_with_plain_ones():
    images = data.blossoms(3, 5, 16)
    x = images.images.double() / 255
    mean, std = images.channel_mean_std()
    assert torch.allclose(mean, x.mean((0, 2, 3))) and torch.allclose(std, x.std((0, 2, 3), unbiased=False))


# ---- blossoms


def test_a_flower_depends_on_its_own_index_only():
    many, few = data.blossoms(6, 9, 16), data.blossoms(3, 4, 16)
    assert torch.equal(many.images.view(6, 9, 3, 16, 16)[:3, :4], few.images.view(3, 4, 3, 16, 16))
    assert many.fingerprint != few.fingerprint and many.classes[:3] == few.classes and sorted(many.classes) == many.classes
    assert torch.equal(few.images, data.blossoms(3, 4, 16).images)
    for other in (data.blossoms(3, 4, 16, seed=1), data.blossoms(3, 4, 16, split="test")):
        assert (other.images != few.images).float().mean() > 0.5 and other.fingerprint != few.fingerprint
    pair = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.equal(few.images, data.blossoms(3, 4, 16).images)
    torch.set_num_threads(pair)


def test_the_same_flower_at_every_resolution():
    large = data.blossoms(5, 4, 128).images.float()
    for side in (8, 16, 32, 64):
        small = data.blossoms(5, 4, side).images.float()
        shrunk = torch.nn.functional.avg_pool2d(large, 128 // side)
        assert np.corrcoef(small.flatten(), shrunk.flatten())[0, 1] > 0.97


def test_a_thousand_species_and_any_size():
    images = data.blossoms(1000, 1, 8)
    assert len(set(images.classes)) == 1000 and images.classes == sorted(images.classes) and len(images) == 1000
    d = torch.tensor(images.truth["diversity"])
    assert d.min() < 0.01 and d.max() > 0.99 and torch.histc(d, 10).std() < 5
    position = torch.arange(1000) % 5
    assert max((d[position == p].mean() - 0.5).abs() for p in range(5)) < 0.02  # not tied to the place in the block
    assert data.blossoms(2, 1, 256).resolution == 256 and data.blossoms(2, 2, 37).resolution == 37


def spectrum(images):
    """Features that know nothing of the drawing: 4x4 colours, and strength and direction of each band of the Fourier spectrum."""
    x = images.float() / 255
    side = x.shape[-1]
    window, f = torch.hann_window(side, periodic=False), torch.fft.fftfreq(side) * side
    grey = x.mean(1)
    power = torch.fft.fft2((grey - grey.mean((1, 2), keepdim=True)) * window * window[:, None]).abs()
    radius, angle = torch.hypot(f[:, None], f[None]), torch.atan2(f[:, None], f[None])
    features, step = [torch.nn.functional.avg_pool2d(x, side // 4).flatten(1)], max(1.0, side / 32)
    for low in torch.arange(1, side / 2, step):
        ring = (radius >= low) & (radius < low + step)
        total = power[:, ring].mean(1)
        features.append(total.log()[:, None])
        features += [((power[:, ring] * torch.exp(1j * h * angle[ring])).mean(1).abs() / total)[:, None] for h in (2, 4, 6, 8)]
    return torch.cat(features, 1).double()


def discriminant(side, classes, train=100, test=60):
    """Confusion matrix of a linear discriminant on `spectrum`, with 5% shrinkage: a classifier in closed form."""
    sets = [data.blossoms(classes, train, side), data.blossoms(classes, test, side, split="test")]
    a, b = (spectrum(s.images) for s in sets)
    mean, std = a.mean(0), a.std(0) + 1e-9
    a, b, c = (a - mean) / std, (b - mean) / std, sets[0].labels
    centre = torch.stack([a[c == k].mean(0) for k in range(classes)])
    rest = a - centre[c]
    cov = 0.95 * rest.T @ rest / len(a)
    cov += 0.05 * cov.diagonal().mean() * torch.eye(len(cov))
    w = torch.linalg.solve(cov, centre.T)
    guess = (b @ w - (centre * w.T).sum(1) / 2).argmax(1)
    return torch.zeros(classes, classes).index_put_((sets[1].labels, guess), torch.ones(len(guess)), accumulate=True) / test


def test_accuracy_rises_with_resolution_as_planted(one_thread):
    confusion = {side: discriminant(side, 10, 60, 30) for side in (8, 32, 64)}
    accuracy = {side: matrix.diagonal().mean().item() for side, matrix in confusion.items()}
    assert 0.5 < accuracy[8] < 0.68 and 0.72 < accuracy[32] < 0.85 and accuracy[64] > 0.9, accuracy
    for block in (0, 5):
        two, three, four = block + 2, block + 3, block + 4
        assert confusion[8][two, [three, four]].sum() > 0.35  # at 8 pixels the block's last three are one
        assert confusion[32][two, two] > 0.9 and confusion[32][three, four] + confusion[32][four, three] > 0.6
        assert confusion[64][three, three] > 0.85 and confusion[64][four, four] > 0.85


def test_diversity_lowers_ms_ssim_as_planted(one_thread):
    similarity = pytest.importorskip("acgan.similarity")
    images = data.blossoms(20, 16, 32)
    score = similarity.mean_ms_ssim(images.images, images.labels, pairs=12, seed=0)
    means = [score[k][0] for k in range(20)]
    assert np.corrcoef(images.truth["diversity"], means)[0, 1] < -0.8 and max(means) - min(means) > 0.4


def test_diversity_also_by_pytorch_msssim(one_thread):
    other = pytest.importorskip("pytorch_msssim")
    images = data.blossoms(10, 8, 176)
    means = [other.ms_ssim(x[:4], x[4:], data_range=255, size_average=True).item() for x in images.images.float().split(8)]
    assert np.corrcoef(images.truth["diversity"], means)[0, 1] < -0.8


def test_blossoms_refuses_what_it_cannot_draw():
    for options, match in (({"n_classes": 1}, "n_classes must be a whole number from 2 to 1000"), ({"n_classes": 1001}, "got 1001"),
                           ({"resolution": 7}, "resolution .* from 8 to 256, got 7"), ({"resolution": 257}, "got 257"),
                           ({"resolution": 32.0}, r"got 32\.0"), ({"per_class": 0}, "per_class"), ({"split": "val"}, "unknown split 'val'")):
        refused(match, "blossoms", **options)


def test_a_large_set_is_drawn_once(monkeypatch):
    first = data.load("blossoms", resolution=64, n_classes=2, per_class=300)
    monkeypatch.setattr(data, "draw", never)
    again = data.load("blossoms", resolution=64, n_classes=2, per_class=300)
    assert torch.equal(first.images, again.images) and first.fingerprint == again.fingerprint


# ---- folders and the cache


def test_second_open_decodes_nothing_and_warns_of_nothing(tmp_path, monkeypatch):
    write(tmp_path / "set", {"train/a": 5, "train/b": 4, "test/a": 2, "test/b": 2})
    first = data.load(str(tmp_path / "set"), resolution=8)
    monkeypatch.setattr(data, "decode", never)
    monkeypatch.setattr(data, "file_hash", never)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = data.load("folder", resolution=8, root=tmp_path / "set")
    assert torch.equal(first.images, again.images) and first.fingerprint == again.fingerprint
    assert again.labels.tolist() == [0] * 5 + [1] * 4 and again.name == "set"


def test_fingerprint_is_of_the_content(tmp_path, monkeypatch):
    root = write(tmp_path / "set", {"train/a": 3, "train/b": 3})
    first = data.load(str(root), resolution=8)
    shutil.copytree(root, tmp_path / "moved" / "set")
    assert data.load(str(tmp_path / "moved" / "set"), resolution=8).fingerprint == first.fingerprint
    assert data.load(str(root), resolution=9).fingerprint != first.fingerprint
    os.utime(root / "train/a/000.png", ns=(1, 1))
    os.utime(root / "train/a/001.png", ns=(1, 1))
    os.utime(root / "train/a/002.png", ns=(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(data, "decode", never)
        assert data.load(str(root), resolution=8).fingerprint == first.fingerprint  # read again, not decoded again
    for i in range(3):
        image = Image.open(root / f"train/b/00{i}.png").point(lambda v: 255 - v)
        image.save(root / f"train/b/00{i}.png")
    changed = data.load(str(root), resolution=8)
    assert changed.fingerprint != first.fingerprint and not torch.equal(changed.images, first.images)
    (root / "train/b").rename(root / "train/c")
    assert data.load(str(root), resolution=8).fingerprint not in (first.fingerprint, changed.fingerprint)


def test_order_selection_and_ignored_files(tmp_path):
    root = write(tmp_path / "set", {"train/b": 4, "train/a": 4, "train/c": 4, "val/a": 2, "val/b": 2, "val/c": 2})
    (root / "train/a/notes.txt").write_text("not an image")
    (root / "train/a/.hidden.png").write_text("not an image")
    (root / "train/README.md").write_text("not a class")
    (root / "train/.git").mkdir()
    some = data.load(str(root), resolution=12, n_classes=2, per_class=3)
    assert some.classes == ["a", "b"] and some.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = np.stack([np.asarray(Image.open(root / f"train/{k}/00{i}.png")).transpose(2, 0, 1) for k in "ab" for i in range(3)])
    assert np.array_equal(some.images, expected)
    assert len(data.load(str(root), "test", resolution=12)) == 6


def test_held_out_split_is_a_fixed_partition(tmp_path):
    root = write(tmp_path / "flat", {"a": 20, "b": 31}, side=4)
    train, test = (data.load(str(root), split, resolution=4) for split in ("train", "test"))
    assert torch.bincount(train.labels).tolist() == [18, 28] and torch.bincount(test.labels).tolist() == [2, 3]
    whole = data.load(str(root), resolution=4, holdout=0)
    rows = {x.numpy().tobytes() for part in (train, test) for x in part.images}
    assert len(whole) == 51 and rows == {x.numpy().tobytes() for x in whole.images}
    shutil.copytree(root, tmp_path / "elsewhere")
    assert torch.equal(data.load(str(tmp_path / "elsewhere"), "test", resolution=4).images, test.images)
    refused("flat has no test split: it needs", str(root), "test", holdout=0)


def test_two_at_once_decode_once(tmp_path, monkeypatch):
    root, seen, plain = write(tmp_path / "set", {"a": 6, "b": 6}), [], data.decode
    monkeypatch.setattr(data, "decode", lambda path, resolution: seen.append(path) or plain(path, resolution))
    results = []
    both = [threading.Thread(target=lambda: results.append(data.load(str(root), resolution=8, holdout=0))) for _ in range(2)]
    [t.start() for t in both], [t.join() for t in both]
    assert len(seen) == 12 and torch.equal(results[0].images, results[1].images)


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, work):
    root = write(tmp_path / "set", {"train/a": 9, "train/b": 9, "test/a": 2, "test/b": 2})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, hard))
        refused("cannot write .*cache.*: File too large", str(root), resolution=64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [p for p in (work / "cache").iterdir() if p.is_dir() and p.name != "known"]
    assert len(data.load(str(root), resolution=64)) == 18


def test_damaged_cache_is_named(tmp_path, work):
    root = write(tmp_path / "set", {"a": 3, "b": 3})
    stamp = data.load(str(root), resolution=8).fingerprint
    file = work / "cache" / stamp / "images.npy"
    file.write_bytes(file.read_bytes()[:200])
    refused(f"{stamp} is damaged .*: delete it", str(root), resolution=8)


# ---- bad input


def test_bad_requests(tmp_path):
    root = write(tmp_path / "set", {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    refused("unknown data set 'cifar': choose one of blossoms, cifar10", "cifar")
    refused("unknown split 'valid': choose one of train, test", str(root), "valid")
    refused("cannot read the folder .*nowhere: No such file", str(tmp_path / "nowhere"))
    refused("'folder' needs a root", "folder")
    refused("'imagenet' needs a root", "imagenet")
    refused("has no train/ folder", "imagenet", root=tmp_path)
    refused("resolution must be .* got 0", str(root), resolution=0)
    refused("n_classes of .* from 1 to 2, got 3", str(root), n_classes=3)
    refused("per_class must be", str(root), per_class=0)
    refused("other classes than those of cifar10", "cifar10", root=root)


def test_bad_folders(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    refused("empty holds no class folders: put the images at", str(tmp_path / "empty"))
    write(tmp_path / "loose", {".": 3})
    refused("loose holds no class folders", str(tmp_path / "loose"))
    write(tmp_path / "lone", {"train/a": 3, "train/solo": 1})
    refused("class folder .*solo holds one image", str(tmp_path / "lone"))
    write(tmp_path / "void", {"train/a": 3, "train/nothing": 0})
    refused("class folder .*nothing holds no images", str(tmp_path / "void"))
    write(tmp_path / "pair", {"train/a": 3, "train/two": 2})
    refused("class two of .* has 2 images: it needs three", str(tmp_path / "pair"))
    write(tmp_path / "odd", {"train/a": 3, "train/b": 3, "test/a": 3, "test/c": 3})
    refused("different classes: 'b'", str(tmp_path / "odd"), "test")

    def forbidden(folder):
        raise PermissionError(13, "Permission denied", str(folder))
    monkeypatch.setattr(data.os, "scandir", forbidden)
    refused("cannot read the folder .*: Permission denied", str(tmp_path / "pair"))


@pytest.mark.parametrize("kind", ["text", "cut.png", "cut.jpg", "flipped", "animated.webp", "animated.png", "zero"])
def test_bad_images_are_named(tmp_path, kind):
    root = write(tmp_path / "set", {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2}, side=40)
    good, frames = (root / "train/a/000.png").read_bytes(), [Image.new("RGB", (9, 9), c) for c in ("red", "blue")]
    bad = root / "train/b" / f"bad{Path(kind).suffix or '.png'}"
    if kind.startswith("animated"):
        frames[0].save(bad, save_all=True, append_images=frames[1:])
    elif kind == "cut.jpg":
        Image.open(io.BytesIO(good)).save(bad)
        bad.write_bytes(bad.read_bytes()[:-500])
    else:
        bad.write_bytes({"text": b"hello", "cut.png": good[:2000], "zero": b"", "flipped": good[:60] + b"\0" * 40 + good[100:]}[kind])
    match = "bad.* is animated, with 2 frames" if kind.startswith("animated") else "bad"
    refused(match, str(root), resolution=16)
    bad.unlink()
    assert len(data.load(str(root), resolution=16)) == 6


def test_modes_become_the_colours_they_show(tmp_path):
    def decoded(image, name="x.png", **options):
        image.save(tmp_path / name, **options)
        return data.decode(tmp_path / name, 2)[:, 0, 0].tolist()
    assert decoded(Image.new("L", (2, 2), 77)) == [77, 77, 77]
    assert decoded(Image.new("1", (2, 2), 1)) == [255, 255, 255]
    assert decoded(Image.new("LA", (2, 2), (100, 0))) == [255, 255, 255]
    assert decoded(Image.new("RGBA", (2, 2), (255, 0, 0, 255))) == [255, 0, 0]
    half = decoded(Image.new("RGBA", (2, 2), (255, 0, 0, 128)))
    assert half[0] == 255 and half[1] == half[2] and abs(half[1] - 127) <= 1
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert decoded(palette) == [10, 20, 30] and decoded(palette, transparency=1) == [255, 255, 255]
    for grey in (0, 1, 255, 256, 32896, 65535):
        assert decoded(Image.fromarray(np.full((2, 2), grey, np.uint16))) == [round(grey / 257)] * 3
    red = decoded(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "x.jpg", quality=100)
    assert red[0] > 240 and max(red[1:]) < 15


def test_orientation_flag_is_obeyed(tmp_path):
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 4))  # white above
    flag = Image.Exif()
    flag[0x0112] = 6  # to be turned a quarter to the right before it is shown
    image.save(tmp_path / "x.png", exif=flag)
    shown = data.decode(tmp_path / "x.png", 8)[0]
    assert shown[:, 4:].min() == 255 and shown[:, :4].max() == 0


def test_crop_is_centred_and_resize_does_not_alias(tmp_path):
    tall = np.random.default_rng(0).integers(0, 256, (256, 128, 3), dtype=np.uint8)
    for name, image in (("tall", Image.fromarray(tall)), ("wide", Image.fromarray(tall).rotate(90, expand=True))):
        image.save(tmp_path / f"{name}.png")
        size, box = ((16, 32), (0, 8, 16, 24)) if name == "tall" else ((32, 16), (8, 0, 24, 16))
        expected = np.asarray(image.resize(size, Image.Resampling.BICUBIC).crop(box)).astype(int).transpose(2, 0, 1)
        small = data.decode(tmp_path / f"{name}.png", 16)
        assert abs(small - expected).max() <= 1 and small.std() < 25 and tall.std() > 70
    three = np.zeros((30, 90, 3), np.uint8)
    three[:, 30:60] = 200
    Image.fromarray(three).save(tmp_path / "three.png")
    assert (data.decode(tmp_path / "three.png", 30) == 200).all()


# ---- named sets


def test_cifar_in_class_folders(tmp_path):
    layout = {f"{split}/{name}": count for split, count in (("train", 3), ("test", 2)) for name in data.CIFAR_CLASSES}
    write(tmp_path / "cifar10", layout, side=32)
    for root in (tmp_path, tmp_path / "cifar10"):
        train, test = (data.load("cifar10", split, root=root) for split in ("train", "test"))
        assert (len(train), len(test), train.name) == (30, 20, "cifar10") and train.classes == data.CIFAR_CLASSES
    assert np.array_equal(train.images[0].permute(1, 2, 0), np.asarray(Image.open(tmp_path / "cifar10/train/airplane/000.png")))
    assert data.load("cifar10", root=tmp_path, n_classes=2, per_class=1).labels.tolist() == [0, 1]


def test_cifar_batches_come_by_class_through_the_md5_check(tmp_path, monkeypatch):
    root, rows = tmp_path / "cifar-10-batches-py", np.random.default_rng(0).integers(0, 256, (30, 3072), dtype=np.uint8)
    root.mkdir()
    labels = [i * 7 % 10 for i in range(30)]
    (root / "one").write_bytes(pickle.dumps({"data": rows, "labels": labels}))
    (root / "meta").write_bytes(pickle.dumps({"label_names": data.CIFAR_CLASSES}))
    md5 = {name: hashlib.md5((root / name).read_bytes()).hexdigest() for name in ("one", "meta")}
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", [["one", md5["one"]]])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", [["one", md5["one"]]])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": md5["meta"]})
    three = data.load("cifar10", root=root, n_classes=4, per_class=3, download=False)
    order = [i for k in range(4) for i in range(30) if labels[i] == k]
    assert np.array_equal(three.images.reshape(12, 3072), rows[order]) and three.labels.tolist() == [k for k in range(4) for _ in range(3)]
    (root / "one").write_bytes(b"tampered")
    refused("cannot get cifar-10-batches-py into .*: Dataset not found or corrupted", "cifar10", "test", root=root, download=False)


def tiny_imagenet(root):
    write(root, {"train/n1/images": 3, "train/n2/images": 3, "val/images": 4, "test/images": 3}, side=8, suffix=".JPEG")
    rows = ["000.JPEG\tn2\t0\t0\t7\t7", "001.JPEG\tn1\t0\t0\t7\t7", "002.JPEG\tn1\t0\t0\t7\t7", "003.JPEG\tn2\t0\t0\t7\t7"]
    (root / "val/val_annotations.txt").write_text("\n".join(rows) + "\n")
    return root


def test_tiny_imagenet_as_it_is_unpacked(tmp_path):
    root = tiny_imagenet(tmp_path / "tiny-imagenet-200")
    train, test = (data.load("tiny-imagenet", split, resolution=8, root=tmp_path) for split in ("train", "test"))
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] and train.classes == test.classes == ["n1", "n2"]
    assert np.array_equal(test.images[0], data.decode(root / "val/images/001.JPEG", 8)) and test.labels.tolist() == [0, 0, 1, 1]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_download_is_checked_unpacked_whole_and_used(tmp_path, monkeypatch):
    tiny_imagenet(tmp_path / "tiny-imagenet-200")
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as archive:
        for path in sorted((tmp_path / "tiny-imagenet-200").rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
    body = (tmp_path / "tiny-imagenet-200.zip").read_bytes()
    handler = partial(QuietHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, inside = f"http://127.0.0.1:{server.server_port}/tiny-imagenet-200.zip", "tiny-imagenet-200"
    monkeypatch.setitem(data.DATA_SETS, "tiny-imagenet", data.DataSet(archives=(data.Archive(url, "0" * 32, inside),)))
    refused("cannot get tiny-imagenet-200 into .*put it there by hand", "tiny-imagenet", root=tmp_path / "new")
    assert not (tmp_path / "new" / inside).exists()
    monkeypatch.setitem(data.DATA_SETS, "tiny-imagenet", data.DataSet(archives=(data.Archive(url, hashlib.md5(body).hexdigest(), inside),)))
    assert len(data.load("tiny-imagenet", resolution=8, root=tmp_path / "new")) == 6
    assert not [p for p in (tmp_path / "new").iterdir() if p.name.startswith(".unpacking")]
    server.shutdown()
    server.server_close()
    assert len(data.load("tiny-imagenet", "test", resolution=8, root=tmp_path / "new")) == 4


def test_no_network_is_one_line(tmp_path, monkeypatch):
    def down(*args, **options):
        raise OSError("Network is unreachable")
    monkeypatch.setattr("urllib.request.urlopen", down)
    for name in ("cifar10", "imagenette", "tiny-imagenet"):
        refused("cannot get .* into .*: Network is unreachable; put it there by hand", name, root=tmp_path / name)
        refused("cannot get|has no train/ folder", name, root=tmp_path / name, download=False)


def test_imagenette_uses_val_as_test(tmp_path):
    write(tmp_path / "imagenette2-160", {"train/n1": 3, "train/n2": 3, "val/n1": 2, "val/n2": 2})
    assert len(data.load("imagenette", "test", resolution=8, root=tmp_path)) == 4
    assert len(data.load("imagenet", "test", resolution=8, root=tmp_path / "imagenette2-160")) == 4


# ---- class splits


@pytest.mark.parametrize("how", ["contiguous", "random", "similar", "dissimilar"])
@pytest.mark.parametrize(("K", "size"), [(10, 5), (10, 3), (100, 10), (7, 7), (5, 1)])
def test_every_split_covers_every_class_once(K, size, how):
    classes = [f"{k:03d}" for k in range(K)]
    features = torch.randn(K, 4, generator=torch.Generator().manual_seed(0))
    splits = data.class_splits(classes, size, how, features=features)
    assert data.check_splits(splits, classes) is splits and len(splits) == -(-K // size) and max(map(len, splits)) <= size
    assert splits == data.class_splits(classes, size, how, features=features)


def test_feature_splits_find_planted_groups():
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    label = torch.arange(12) % 4
    features = centres[label] + 0.1 * torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
    classes = [chr(97 + k) for k in range(12)]
    assert all(len({int(label[k]) for k in group}) == 1 for group in data.class_splits(classes, 3, "similar", features=features))
    assert all(len({int(label[k]) for k in group}) == 4 for group in data.class_splits(classes, 4, "dissimilar", features=features))
    with pytest.raises(UserError, match="needs features, one row for each of the 12 classes"):
        data.class_splits(classes, 3, "similar")


def test_wrong_splits_are_refused(tmp_path):
    classes = ["a", "b", "c"]
    assert data.class_splits(classes, None, [["c", "a"], [1]]) == [(2, 0), (1,)]
    for splits, match in (([(0, 1), (1, 2)], "'b' is in 2 groups"), ([(0, 1)], "'c' is in no groups")):
        with pytest.raises(UserError, match=match):
            data.check_splits(splits, classes)
        file = data.save_splits(tmp_path / "s.json", splits, classes)
        assert data.load_splits(file, classes) == splits
        with pytest.raises(UserError, match=match):
            data.load_splits(file, classes, complete=True)
    for text, match in (('{"members": [["a", "z"]]}', "no class 'z'"), ("[]", "not a class split"), ("{", "not valid JSON"),
                        ('{"members": [[]]}', "not a class split"), ('{"members": []}', "not a class split")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match=match):
            data.load_splits(tmp_path / "bad.json", classes)
    for how, match in (("alphabetic", "unknown class split"), ([["a", "z"]], "no class 'z'")):
        with pytest.raises(UserError, match=match):
            data.class_splits(classes, 2, how)
    with pytest.raises(UserError, match="classes per group must be .* from 1 to 3, got 4"):
        data.class_splits(classes, 4)


# ---- batches


def numbered(n, K=5):
    """n images of one pixel whose value is their number."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).repeat(1, 3, 1, 1)
    return data.ImageSet(images, torch.arange(n) % K, [f"c{k}" for k in range(K)], "numbered", "train", "0" * 12)


def names(x):
    return data.to_uint8(x)[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(("n", "batch"), [(60, 7), (60, 60), (60, 1), (10, 32), (2, 5)])
def test_every_image_once_an_epoch(n, batch):
    batches = data.Batches(numbered(n, 2), batch=batch, seed=3)
    seen = [i for _ in range(-(-4 * n // batch)) for i in names(batches.next()[0])]
    epochs = [seen[i:i + n] for i in range(0, 4 * n, n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs[:3]) and (n < 5 or epochs[0] != epochs[1])


def test_labels_are_the_members_own():
    images = numbered(50)
    x, c = data.Batches(images, classes=("c4", 1), batch=20).next()
    assert [{4: 0, 1: 1}[i % 5] for i in names(x)] == c.tolist() and x.dtype == torch.float32 and c.dtype == torch.int64
    with pytest.raises(UserError, match="no class 'c9'"):
        data.Batches(images, classes=("c9",))


@pytest.mark.parametrize("steps", [0, 1, 4, 13])
def test_resumed_batches_are_the_same_bits(steps):
    images = data.blossoms(3, 9, 8)
    one = data.Batches(images, classes=(0, 2), batch=5, seed=1)
    for _ in range(steps):
        one.next()
    stream = io.BytesIO()
    torch.save(one.state_dict(), stream)
    stream.seek(0)
    two = data.Batches(images, classes=(0, 2), batch=5, seed=99)
    two.load_state_dict(torch.load(stream, weights_only=True))
    for _ in range(20):
        (x, c), (y, d) = one.next(), two.next()
        assert torch.equal(x, y) and torch.equal(c, d)


def test_seeds_and_the_global_generator():
    images = numbered(40)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b, c = (names(data.Batches(images, batch=40, seed=s).next()[0]) for s in (0, 0, 1))
    assert a == b != c and torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_never_wait_for_the_gpu():
    batches = data.Batches(data.blossoms(3, 50, 32), batch=16, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(30):
            x, c = batches.next()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x.device.type == "cuda" and c.max() <= 2
