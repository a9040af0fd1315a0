"""ResNet-20: training, storage and refusals. Inception: ours against torch-fidelity and torchvision with the same random weights.
D's class head, the two resizes, and the tests of differences, each against something that was written elsewhere."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch
import torchvision

from acgan import classifiers
from acgan.classifiers import (imagenet_ids, RESIZES, Classifier, ResNet20, Standardise, ToInception, accuracy_by_resolution, at_resolution, by_class,
                               by_subset, correct, fit, holm, inception_2015, inception_torchvision, load_classifier, of_discriminator,
                               open_classifier, real_statistics, resize, save_classifier, shift_flip, sign_flip, tf1_bilinear, train_classifier,
                               train_resnet20)
from acgan.config import UserError, generator
from acgan.data import ImageSet, load, to_float
from acgan.densenet import DenseNet
from acgan.models import Discriminator
from acgan.scores import accuracy, fid, inception_score, kid, score

QUICK = dict(epochs=6, batch=32, width=0.25, device="cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sets():
    return tuple(load("blossoms", split, 16, n_classes=4, per_class=60) for split in ("train", "test"))


@pytest.fixture(scope="module")
def trained(sets, tmp_path_factory):
    torch.set_num_threads(1)
    return train_resnet20(*sets, out=tmp_path_factory.mktemp("net") / "resnet20", **QUICK)


def same(a, b):
    a, b = a.network.state_dict(), b.network.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_learns_and_reports(sets, trained):
    train, test = sets
    probs, features = trained.predict(test.images)
    assert probs.shape == (240, 4) and probs.dtype == torch.float64 and features.shape == (240, 16) and features.dtype == torch.float32
    assert trained.accuracy["test"] == pytest.approx(accuracy(probs, test.labels))
    assert trained.accuracy["train"] > 0.6 and trained.accuracy["test"] > 0.5
    assert trained.accuracy["train"] == pytest.approx(accuracy(trained.predict(train.images)[0], train.labels))
    assert score(probs, trained, splits=4).name == "ResNet-20 score"


def test_same_seed_same_bits(sets, trained, tmp_path):
    torch.manual_seed(123)                                        # the global state plays no part
    assert same(trained, train_resnet20(*sets, out=tmp_path / "a", **QUICK))
    assert not same(trained, train_resnet20(*sets, out=tmp_path / "b", seed=1, **QUICK))


def test_cached_by_question(sets, monkeypatch, tmp_path):
    monkeypatch.setenv("ACGAN_WORK", str(tmp_path))
    options = QUICK | {"epochs": 1}
    first = train_resnet20(*sets, **options)
    assert (tmp_path / "classifiers" / first.fingerprint / "weights.safetensors").is_file()
    monkeypatch.setattr(classifiers, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert same(first, load_classifier("resnet20", *sets, **options))
    info = json.loads((tmp_path / "classifiers" / first.fingerprint / "classifier.json").read_text())
    assert info["settings"]["epochs"] == 1 and info["accuracy"] == first.accuracy and info["images_fingerprint"] == sets[0].fingerprint
    with pytest.raises(pytest.fail.Exception):
        train_resnet20(*sets, **options | {"weight_decay": 0.0})


def test_a_killed_training_leaves_nothing(tmp_path):
    code = ("import sys, torch; torch.set_num_threads(1)\n"
            "from acgan import classifiers; from acgan.data import load; import os\n"
            "classifiers.write_json = lambda *a: os._exit(9)\n"
            "s = load('blossoms', 'train', 16, n_classes=2, per_class=20)\n"
            f"classifiers.train_resnet20(s, epochs=1, batch=20, width=.25, device='cpu', out={str(tmp_path / 'net')!r})")
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 9
    assert not (tmp_path / "net").exists()


def test_batch_size_changes_nothing(sets, trained):
    a, b = trained.predict(sets[1].images, batch=7), trained.predict(sets[1].images, batch=240)
    torch.testing.assert_close(a[0], b[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(a[1], b[1], rtol=0, atol=1e-4)


def test_normalises_by_the_training_set(sets, trained):
    mean = sets[0].images.double().div(255).mean((0, 2, 3))
    np.testing.assert_allclose(trained.preprocess.mean, mean, rtol=1e-6)
    pale = (sets[1].images // 4 + 96)
    own = trained.preprocess._replace(mean=tuple(pale.double().div(255).mean((0, 2, 3)).tolist()))
    assert own.mean != trained.preprocess.mean
    torch.testing.assert_close(trained.preprocess(pale), torchvision.transforms.functional.normalize(pale.float() / 255, *trained.preprocess))


def test_resnet20_is_the_published_net():
    net = ResNet20(10)
    assert sum(p.numel() for p in net.parameters()) == 269_722
    shapes = []
    for block in net.blocks:
        block.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape[1:])))
    assert net(torch.randn(2, 3, 32, 32))["features"].shape == (2, 64)
    assert shapes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3
    assert all(ResNet20(5, 0.5, max(1, r // 32))(torch.randn(1, 3, r, r))["logits"].isfinite().all() for r in (8, 17, 48, 64, 128))


@pytest.mark.parametrize("growth, depth, millions", [(12, 100, 0.8), (24, 250, 15.3), (40, 190, 25.6)])
def test_densenet_has_the_published_numbers_of_parameters(growth, depth, millions):
    with torch.device("meta"):
        net = DenseNet(10, growth, depth)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(millions * 1e6, rel=0.04)
    assert sum(isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) for m in net.modules()) == depth


def test_densenet_has_the_gradients_of_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.DenseNet(growth_rate=4, block_config=(1, 1, 1), num_init_features=8, num_classes=3)
    theirs.features.conv0 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(theirs.features, name, torch.nn.Identity())
    ours = DenseNet(3, growth=4, depth=10)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x, labels = torch.randn(6, 3, 32, 32), torch.arange(6) % 3
    for net in (theirs.train(), ours.train()):
        out = net(x)
        torch.nn.functional.cross_entropy(out["logits"] if isinstance(out, dict) else out, labels).backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_densenet_learns_and_is_found_again(sets, tmp_path):
    options = dict(epochs=6, batch=16, growth=6, depth=10, device="cpu", out=tmp_path / "net")
    made = load_classifier("densenet", *sets, **options)
    assert made.name == "densenet" and made.accuracy["test"] > 0.5
    found = open_classifier(tmp_path / "net")
    assert same(made, found) and found.network.size == {"growth": 6, "depth": 10, "stride": 1}
    assert torch.equal(made.predict(sets[1].images)[0], found.predict(sets[1].images)[0])
    assert score(made.predict(sets[1].images)[0], made, splits=4).name == "DenseNet score"
    info = json.loads((tmp_path / "net" / "classifier.json").read_text())
    assert info["settings"]["nesterov"] is True and info["architecture"]["name"] == "densenet"
    with pytest.raises(UserError, match="does not hold a DenseNet of this size"):
        (tmp_path / "net" / "classifier.json").write_text(json.dumps(info | {"classes": ["one"]}))
        open_classifier(tmp_path / "net")
    with pytest.raises(UserError, match="cannot have 12 layers"):
        train_classifier("densenet", *sets, depth=12, device="cpu", out=tmp_path / "other")
    with pytest.raises(UserError, match="unknown setting of densenet 'width'"):
        train_classifier("densenet", *sets, width=0.5)


def test_augmentation_equals_pad_and_crop():
    x = torch.randint(0, 256, (5, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = shift_flip(x, torch.arange(5).repeat(20), generator(0, "t"))
    padded = torch.nn.functional.pad(x.float(), (3, 3, 3, 3), mode="reflect").to(torch.uint8)
    for n, image in enumerate(out):
        crops = [padded[n % 5, :, i:i + 24, j:j + 24] for i in range(7) for j in range(7)]
        assert any(torch.equal(image, crop) or torch.equal(image, crop.flip(2)) for crop in crops)
    assert len({image.numpy().tobytes() for image in out}) > 80


def tampered(folder, how):
    weights, info = folder / "weights.safetensors", folder / "classifier.json"
    data, text = weights.read_bytes(), json.loads(info.read_text())
    if how == "truncated":
        weights.write_bytes(data[:-100])
    if how == "altered":
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    if how == "missing":
        weights.unlink()
    if how == "foreign":
        weights.write_bytes(b"not tensors")
        text["sha256"] = classifiers.hashlib.sha256(b"not tensors").hexdigest()
    if how == "other width":
        text["architecture"]["width"] = 0.5
    if how == "other classes":
        text["classes"] = text["classes"][:-1]
    if how == "other version":
        text["format"] = 99
    if how == "no keys":
        text = {}
    if how == "list":
        text = [1]
    info.write_text("{" if how == "no json" else json.dumps(text))


@pytest.mark.parametrize("how, words", [
    ("truncated", "weights.safetensors is not the file"), ("altered", "weights.safetensors is not the file"),
    ("missing", "cannot read .*weights.safetensors"), ("foreign", "weights.safetensors does not hold a ResNet-20"),
    ("other width", "weights.safetensors does not hold a ResNet-20"), ("other classes", "weights.safetensors does not hold a ResNet-20"),
    ("other version", "in format 99, not resnet20 or densenet in 1"), ("no keys", "classifier.json does not describe a classifier"),
    ("list", "classifier.json does not describe a classifier"), ("no json", "classifier.json is not valid JSON"),
])
def test_damaged_files_are_named(trained, tmp_path, how, words):
    folder = save_classifier(trained, tmp_path / "net")
    assert same(open_classifier(folder), trained)
    tampered(folder, how)
    with pytest.raises(UserError, match=words) as error:
        open_classifier(folder)
    assert "\n" not in str(error.value)


def test_refusals(sets, trained, tmp_path):
    train, test = sets
    bad = [(lambda: train_resnet20(train.subset([0]), **QUICK), "needs 2 classes and 2 images, blossoms has 1"),
           (lambda: train_resnet20(train, test.subset([0, 1]), **QUICK), "other classes"),
           (lambda: train_resnet20(train, schedule="cosine", **QUICK), "unknown schedule 'cosine'"),
           (lambda: load_classifier("resnet20"), "give images"),
           (lambda: load_classifier("resnet"), "choose one of resnet20, densenet, inception-2015, inception-torchvision"),
           (lambda: trained.predict(test.images.float()), "takes uint8 images"),
           (lambda: trained.predict(test.images[0]), r"shape \[N,3,H,W\]"),
           (lambda: trained.predict(test.images[:0]), "N >= 1"),
           (lambda: fit(train, ResNet20(4, 0.25), trained.preprocess, epochs=1, batch=32, lr=1e30), "lower lr")]
    for call, words in bad:
        with pytest.raises(UserError, match=words):
            call()


def two_kinds():
    """14 blocky and 12 fine-grained images of one colour cast each, uint8, 32 pixels."""
    g = torch.Generator().manual_seed(1)
    colour = torch.randint(0, 128, (14, 3, 1, 1), dtype=torch.uint8, generator=g)
    blocky = torch.randint(0, 128, (14, 3, 4, 4), dtype=torch.uint8, generator=g).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return colour + blocky, torch.randint(0, 128, (12, 3, 32, 32), dtype=torch.uint8, generator=g) + colour[:12]


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """Random weights in the layout of the 2015 graph, with batch norms set from data so that signals neither die nor explode."""
    torch.manual_seed(0)
    net = torchvision.models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    fc, net.fc = net.fc, torch.nn.Identity()
    with torch.no_grad():
        x = torch.nn.functional.interpolate(two_kinds()[0][:8].float() / 128 - 1, (299, 299), mode="bilinear")
        net.train()(x)
        features = net.eval()(x)
        m = features.mean(0)
        fc.weight -= torch.outer(fc.weight @ m, m) / (m @ m)                # no class wins for every image
        fc.weight *= 3 / (features @ fc.weight.T).std()
    net.fc = fc
    file = tmp_path_factory.mktemp("weights") / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(net.state_dict(), file)
    return file


class Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


def test_inception_2015_equals_torch_fidelity(inception_weights, tmp_path):
    import torch_fidelity
    a, b = two_kinds()
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(a), input2=Images(b), cuda=False, isc=True, fid=True, kid=True, verbose=False, isc_splits=4, kid_subsets=5,
        kid_subset_size=10, feature_extractor_weights_path=str(inception_weights), batch_size=10, save_cpu_ram=True,
        cache=False, cache_root=str(tmp_path))
    net = inception_2015(inception_weights, device="cpu")
    (p, f1), (_, f2) = net.predict(a, batch=7), net.predict(b)
    assert p.shape == (14, 1008) and f1.shape == (14, 2048)
    mean, std = inception_score(p, 4, seed=2020)
    assert mean > 1.2 and mean == pytest.approx(theirs["inception_score_mean"], rel=1e-4)
    assert std == pytest.approx(theirs["inception_score_std"], rel=1e-3)
    assert fid(f1, f2) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    kernel = kid(f1, f2, 5, 10, seed=2020)
    assert kernel[0] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    out = net.extract(a[:2])
    bias = torch.load(inception_weights, weights_only=True)["fc.bias"]
    torch.testing.assert_close(out["logits_biased"], out["logits"] + bias, rtol=1e-4, atol=1e-4)
    assert score(p, net, 4).name == "Inception Score (2015 graph)" and len(net.fingerprint) == 12


def test_inception_torchvision_equals_torchvision(tmp_path):
    torch.manual_seed(0)
    net = torchvision.models.inception_v3(weights=None, transform_input=True, aux_logits=True, init_weights=False).eval()
    torch.save(net.state_dict(), tmp_path / "inception_v3_google-0cc3c7bd.pth")
    made = inception_torchvision(tmp_path, device="cpu")
    x = torch.randint(0, 256, (2, 3, 299, 299), dtype=torch.uint8)
    recipe = torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.transforms(resize_size=299)
    with torch.no_grad():
        expected = net(recipe(x)).double().softmax(1)
    probs, features = made.predict(x)
    torch.testing.assert_close(probs, expected, rtol=1e-4, atol=1e-9)
    assert features.shape == (2, 2048) and len(made.classes) == 1000 and made.classes[0] == "tench"


def test_inception_resize_is_antialiased_bilinear():
    from PIL import Image
    x = torch.randint(0, 256, (1, 3, 400, 400), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ToInception.standardise)
    ours = (ToInception()(x) * std + mean) * 255
    pil = np.asarray(Image.fromarray(x[0].permute(1, 2, 0).numpy()).resize((299, 299), Image.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(ours[0].numpy() - pil).max() < 1.01                                      # Pillow rounds to bytes, twice


def test_missing_and_foreign_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for load_it, file in ((inception_2015, "weights-inception-2015-12-05-6726825d.pth"), (inception_torchvision, "inception_v3_google-0cc3c7bd.pth")):
        with pytest.raises(UserError, match=f"no {file} in .*hub/checkpoints: download it from https") as error:
            load_it()
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match="no weights at .*nowhere.pth"):
            load_it(tmp_path / "nowhere.pth")
        (tmp_path / file).write_bytes(b"nonsense")
        with pytest.raises(UserError, match=f"{file} is not a file of PyTorch weights"):
            load_it(tmp_path)
        torch.save({"a": torch.ones(1)}, tmp_path / file)
        with pytest.raises(UserError, match=f"{file} does not hold"):
            load_it(tmp_path)


class Command:
    """Would run a command when unpickled."""

    def __reduce__(self):
        return os.system, ("echo run > ran",)


def test_weights_that_carry_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Command()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="not a file of PyTorch weights"):
        inception_2015(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


def test_without_torch_fidelity(inception_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(UserError, match="pip install torch-fidelity"):
        inception_2015(inception_weights)


def test_any_network_can_be_a_classifier():
    class Net(torch.nn.Module):
        def forward(self, x):
            return {"features": x.flatten(1), "logits": x.mean((2, 3))}
    made = Classifier("mine", list("abc"), Net(), Standardise((0, 0, 0), (1, 1, 1)), "0")
    probs, _ = made.predict(torch.zeros(3, 3, 4, 4, dtype=torch.uint8))
    assert torch.allclose(probs, torch.full((3, 3), 1 / 3, dtype=torch.float64))


def test_the_size_is_kept_with_the_weights(sets, trained, tmp_path):
    assert trained.resolution == 16 and open_classifier(save_classifier(trained, tmp_path / "net")).resolution == 16
    info = json.loads((tmp_path / "net" / "classifier.json").read_text())
    del info["resolution"]                                        # a file that does not say it, as Inception's nets do not
    (tmp_path / "net" / "classifier.json").write_text(json.dumps(info))
    assert open_classifier(tmp_path / "net").resolution is None


def bytes_(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side, size", [(128, 64), (128, 16), (64, 256), (32, 299), (48, 20), (20, 48), (7, 7), (5, 1)])
def test_tf1_bilinear_by_hand_and_by_torch_fidelity(side, size):
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
    x = bytes_(2, 3, side, side)
    ours = tf1_bilinear(x, size)
    theirs = interpolate_bilinear_2d_like_tensorflow1x(x.float(), (size, size), align_corners=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    a = x[0, 0].double().numpy()
    for i, j in [(0, 0), (size - 1, size - 1), (size // 2, size // 3), (size // 3, size - 1)]:
        u, v = i * side / size, j * side / size
        r, c = int(u), int(v)
        r2, c2, du, dv = min(r + 1, side - 1), min(c + 1, side - 1), u - r, v - c
        value = (1 - du) * ((1 - dv) * a[r, c] + dv * a[r, c2]) + du * ((1 - dv) * a[r2, c] + dv * a[r2, c2])
        assert ours[0, 0, i, j].item() == pytest.approx(value, abs=1e-3)


def test_antialias_by_torch_and_by_pillow():
    from PIL import Image
    x = bytes_(1, 3, 64, 64, seed=1)
    for size in (8, 16, 48, 64, 128):
        ours = resize(x, size, "antialias")
        expected = torch.nn.functional.interpolate(x.double(), (size, size), mode="bilinear", antialias=True, align_corners=False)
        assert (ours.double() - expected).abs().max() <= 0.5001
        pil = np.asarray(Image.fromarray(x[0].permute(1, 2, 0).numpy()).resize((size, size), Image.BILINEAR)).transpose(2, 0, 1)
        assert np.abs(ours[0].numpy().astype(int) - pil).max() <= 1


def test_at_resolution_keeps_bytes_in_between():
    x = bytes_(3, 3, 32, 32, seed=2)
    for how in RESIZES:
        assert torch.equal(at_resolution(x, 32, 32, how), x)                                        # the own size is the identity
        assert torch.equal(at_resolution(x, 8, 64, how), resize(resize(x, 8, how), 64, how))        # quantised at 8 pixels too
        assert torch.equal(at_resolution(x, 8, 64, how, batch=2), at_resolution(x, 8, 64, how))
    unrounded = tf1_bilinear(tf1_bilinear(x, 12), 32).round().to(torch.uint8)
    assert not torch.equal(at_resolution(x, 12, 32), unrounded)
    assert torch.equal(at_resolution(x, 8, 8), x[:, :, ::4, ::4])                                   # whole factor: picks pixels
    for k in (2, 4, 8):                                                                             # enlarge by k, reduce: the same bytes
        assert torch.equal(at_resolution(x, 32 * k), x)
    assert (at_resolution(x, 64, how="antialias").int() - x.int()).abs().max() > 20
    for call, words in [(lambda: at_resolution(x, 0), "at least 1 pixel"), (lambda: at_resolution(x.float(), 8), "takes uint8 images"),
                        (lambda: resize(x, 8, "bicubic"), "unknown resize 'bicubic'")]:
        with pytest.raises(UserError, match=words):
            call()


class Stripes(torch.nn.Module):
    """Sees the contrast between neighbouring columns: class 1 above 20 grey levels, else class 0."""

    def forward(self, x):
        contrast = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))
        return {"features": contrast[:, None], "logits": torch.stack([torch.full_like(contrast, 20.0), contrast], 1)}


def striped(classes=("plain", "striped")):
    plain = torch.full((6, 3, 32, 32), 128, dtype=torch.uint8)
    period = torch.tensor([100, 156], dtype=torch.uint8).repeat(16).expand(6, 3, 32, 32)
    return ImageSet(torch.cat([plain, period]), torch.arange(2).repeat_interleave(6), list(classes), "stripes", "test", "0" * 12)


def test_accuracy_by_resolution_counts_what_can_be_seen():
    C = Classifier("stripes", ["plain", "striped"], Stripes(), torch.Tensor.float, "0", resolution=32)
    for how in RESIZES:
        right = accuracy_by_resolution(C, striped(), (8, 16, 32, 64), how)
        assert right.dtype == torch.bool and right.shape == (4, 12)
        table = by_class(right, striped().labels, 2)
        assert table[:, 0].tolist() == [1] * 4                                                      # a plain image is plain at any size
        assert table[:3, 1].tolist() == [0, 0, 1]                                                   # the finest stripes need all pixels
    assert accuracy_by_resolution(C, striped(), (64,))[0].all()
    C.resolution = None                                                                             # as Inception: at the images' own size
    assert accuracy_by_resolution(C, striped(), (32,)).all()


def test_names_decide_who_is_right():
    C = Classifier("stripes", ["striped", "other", "plain"], torch.nn.Sequential(), torch.Tensor.float, "0")
    C.extract = lambda images: {"logits": torch.eye(3)[[2] * 6 + [0] * 6]}
    assert correct(C, striped()).all()
    with pytest.raises(UserError, match="stripes has no class 'spotted'"):
        correct(C, striped(("plain", "spotted")))
    assert correct(C, ImageSet(striped().images, striped().labels, ["plain", "striped", "never seen"], "s", "test", "0")).all()


def test_imagenet_ids_are_understood_in_sets_of_any_number_of_classes():
    C, ids = Classifier("inception-torchvision", ["tench"] * 1000, torch.nn.Sequential(), torch.Tensor.float, "0"), imagenet_ids()
    C.extract = lambda images: {"logits": torch.eye(1000)[[0, 217, 999]]}
    pixels = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    whole = ImageSet(pixels, torch.tensor([0, 217, 4]), ids, "imagenet", "test", "0" * 12)
    assert correct(C, whole).tolist() == [True, True, False]
    three = ImageSet(pixels, torch.tensor([0, 1, 2]), ["n01440764", "n02102040", "n15075141"], "imagenette", "test", "0" * 12)
    assert correct(C, three).tolist() == [True, True, True], "tench, English springer and toilet tissue by their ids"
    with pytest.raises(UserError, match="inception-torchvision has no class 'n00000004'"):
        correct(C, ImageSet(pixels, torch.tensor([0, 1, 1]), ["n00000004", "n01440764"], "other", "test", "0" * 12))


def test_subsets_are_a_partition():
    right = torch.rand(2, 103, generator=torch.Generator().manual_seed(0)) < 0.4
    parts = by_subset(right, 10, seed=3)
    assert parts.shape == (2, 10) and set((parts * 10).round().flatten().tolist()) <= set(range(11))
    order = torch.randperm(103, generator=generator(3, "subsets"))[:100]
    torch.testing.assert_close(parts.mean(1), right[:, order].double().mean(1))
    assert by_class(right, torch.zeros(103, dtype=torch.int64), 2)[:, 1].isnan().all()
    many = torch.rand(1, 200_000, generator=torch.Generator().manual_seed(1)) < 0.3
    sd = by_subset(many, 10).std().item()
    assert 0.3 < sd / (0.3 * 0.7 / 20_000) ** 0.5 < 2                                              # binomial, as nothing else varies


@pytest.mark.parametrize("d", [[3, 1, -2, 5, 4.5], [0.2] * 6 + [-0.2] * 3, list(np.random.default_rng(0).normal(0.4, 1, 12)), [1, 0, 0, 2, -1]])
def test_sign_flip_equals_scipy(d):
    d = np.asarray(d, dtype=float)
    theirs = scipy.stats.permutation_test((d,), lambda x, axis: np.abs(x.sum(axis)), permutation_type="samples", n_resamples=np.inf, alternative="greater", vectorized=True)
    assert sign_flip(d) == pytest.approx(theirs.pvalue, abs=1e-9)


def test_sign_flip_is_a_sign_test_on_rights_and_wrongs():
    for up, down, tied in ((30, 12, 50), (700, 640, 10), (5000, 4800, 0), (4, 4, 1), (0, 0, 3)):
        d = torch.tensor([1.0] * up + [-1.0] * down + [0.0] * tied)
        expected = scipy.stats.binomtest(up, up + down).pvalue if up + down else 1.0
        assert sign_flip(d) == pytest.approx(expected, rel=1e-6)
    d = torch.randn(60, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.3
    assert sign_flip(d) == pytest.approx(scipy.stats.wilcoxon(d).pvalue, abs=0.05) and sign_flip(d) == sign_flip(d)
    assert sign_flip(d.repeat_interleave(2), clusters=torch.arange(60).repeat_interleave(2).tolist()) == sign_flip(d)


def test_sign_flip_keeps_its_level():
    g = torch.Generator().manual_seed(5)
    ps = [sign_flip(torch.randn(10, generator=g)) for _ in range(400)]
    assert 0.02 < np.mean([p <= 0.05 for p in ps]) < 0.09


def test_holm_by_its_definition():
    rng = np.random.default_rng(1)
    for n in (1, 2, 7):
        ps = rng.uniform(0, 0.3, n)
        order = np.argsort(ps)
        expected = np.empty(n)
        expected[order] = np.minimum(1, np.maximum.accumulate(ps[order] * (n - np.arange(n))))
        np.testing.assert_allclose(holm(list(ps)), expected)
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])


def test_real_statistics_are_those_of_real_images():
    D = Discriminator(32, 4, width=0.1, noise_std=0.3, seed=1)
    g = torch.Generator().manual_seed(0)
    for _ in range(20):                                                                             # a training that sees fakes as well
        D(torch.rand(8, 3, 32, 32, generator=g) * 2 - 1, g)
    real = load("blossoms", "train", 32, n_classes=4, per_class=30)
    seen, norm = [], next(m for m in D.modules() if isinstance(m, torch.nn.BatchNorm2d))
    before = norm.running_mean.clone()
    norm.register_forward_hook(lambda m, i, o: seen.append(i[0].detach()))
    assert real_statistics(D, real.images, batch=40) is D and not D.training and norm.momentum == 0.1
    x = torch.cat(seen)
    assert x.shape[0] == 120 and not torch.allclose(norm.running_mean, before)
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, torch.stack([s.transpose(0, 1).flatten(1).var(1) for s in seen]).mean(0), rtol=1e-4, atol=1e-6)
    seen.clear()
    real_statistics(D, real.images, batch=40, limit=60)
    assert sum(map(len, seen)) == 60


def test_a_discriminator_is_a_classifier():
    real = load("blossoms", "test", 32, n_classes=4, per_class=30)
    D = Discriminator(32, 4, width=0.1, noise_std=0.3, seed=1)
    own = of_discriminator(D, real.classes, device="cpu")
    with torch.no_grad():
        expected = D.eval()(to_float(real.images))[1].softmax(1).double()
    probs, source = own.predict(real.images)
    torch.testing.assert_close(probs, expected, rtol=1e-4, atol=1e-6)
    assert source.shape == (120, 1) and correct(own, real).tolist() == (expected.argmax(1) == real.labels).tolist()
    k_plus_1 = of_discriminator(Discriminator(32, 4, width=0.1, head="k+1"), real.classes, real.images, "cpu")
    assert k_plus_1.predict(real.images)[0].shape == (120, 4)
    D.train()
    of_discriminator(D, real.classes, real.images, "cpu")
    assert D.training                                                                               # the original is left alone
