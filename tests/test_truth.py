"""The built-in images' truth is known, and so is what a cheating generator does: the measures must find both."""
import pytest
import torch
from torch.nn.functional import avg_pool2d, one_hot

from acgan import data, latent, scores, similarity, stats


@pytest.fixture(scope="module")
def sets():
    return data.blossoms(10, 120, 32), data.blossoms(10, 80, 32, split="test")


@pytest.fixture(scope="module")
def real(sets):
    return mean_by_name(sets[0])


def mean_by_name(images):
    return {images.classes[k]: mean for k, (mean, _) in similarity.mean_ms_ssim(images.images, images.labels, pairs=100, seed=0).items()}


def made(images, positions):
    """A generator's output: the images at `positions` (one list a class), as an ImageSet over the same classes."""
    return images.take([int(i) for mine in positions for i in mine])


def halves(test, n=40):
    """(what a generator made of unseen real images returns, held-out real images to compare with), n of each class."""
    return (made(test, [test.of_class(k)[part] for k in range(test.n_classes)]) for part in (slice(0, n), slice(n, 2 * n)))


def distances(images, train):
    return similarity.nearest(images.images, train.images, labels=images.labels, bank_labels=train.labels)[0][:, 0]


class Closed:
    """A classifier in closed form: ridge regression on colours and on the spectrum by spatial frequency, which ignores a flower's turn."""

    def __init__(self, train):
        x = self.features(train.images)
        self.mean, self.std = x.mean(0), x.std(0) + 1e-9
        A = self.design(x)
        self.W = torch.linalg.solve(A.T @ A + 3 * torch.eye(A.shape[1]), A.T @ one_hot(train.labels, train.n_classes).double())

    def features(self, images):
        x = images.double() / 255
        R = x.shape[-1]
        power = torch.fft.fftshift(torch.fft.fft2(x - x.mean((2, 3), keepdim=True)), dim=(2, 3)).abs()
        u = torch.arange(R) - R // 2
        radius = torch.hypot(u[:, None].float(), u[None].float()).round()
        rings = [power[:, :, radius == b].mean(2) for b in range(1, R // 2)]
        inner = x[:, :, R // 4:3 * R // 4, R // 4:3 * R // 4]
        return torch.cat([torch.stack(rings, 2).log1p().flatten(1), *(part.mean((2, 3)) for part in (x, inner)), *(part.std((2, 3)) for part in (x, inner))], 1)

    def design(self, x):
        return torch.cat([(x - self.mean) / self.std, torch.ones(len(x), 1)], 1).double()

    def probs(self, images):
        return (10 * self.design(self.features(images)) @ self.W).softmax(1)


@pytest.mark.parametrize("classes, per_class", [(10, 60), (120, 10)])
def test_ms_ssim_falls_as_diversity_rises(classes, per_class):
    images = data.blossoms(classes, per_class, 32)
    found = similarity.mean_ms_ssim(images.images, images.labels, pairs="all" if per_class <= 10 else 100)
    r = torch.corrcoef(torch.tensor([images.truth["diversity"], [found[k][0] for k in range(classes)]]))[0, 1]
    assert r < -0.8


def test_real_images_are_told_apart_at_the_resolution_that_they_need():
    train, test = data.blossoms(10, 60, 64), data.blossoms(10, 40, 64, split="test")
    needs, found = torch.tensor(train.truth["needs_pixels"]), {}
    for R in (8, 16, 32, 64):
        small = [type(s)(avg_pool2d(s.images.float(), 64 // R).round().byte(), s.labels, s.classes, s.name, s.split, "") for s in (train, test)]
        probs = Closed(small[0]).probs(small[1].images)
        found[R] = scores.accuracy(probs, test.labels), scores.class_accuracy(probs, test.labels)
    assert found[8][0] + 0.1 < found[16][0] < found[32][0] + 0.01 and found[32][0] + 0.1 < found[64][0]
    assert found[64][0] > 0.95 and found[8][1][needs == 8].mean() > 0.9
    assert found[16][1][needs == 16].mean() > 0.9 and found[32][1][needs == 64].mean() < 0.7 and found[64][1][needs == 64].mean() > 0.9


def test_one_image_a_class_is_collapsed_and_memorised(sets, real):
    train, test = sets
    _, held_out = halves(test)
    samples = made(train, [[train.of_class(k)[7]] * 40 for k in range(10)])
    assert latent.collapsed(mean_by_name(samples), real) == train.classes
    found = latent.memorised(distances(samples, train), distances(held_out, train))
    assert found["verdict"] == "memorised" and found["copies"] == 1 and found["p"] < 1e-20
    assert all(latent.mode_count(samples.images[samples.of_class(k)], train.images[train.of_class(k)]) == 1 for k in range(10))


def test_stored_images_are_memorised_but_not_collapsed(sets, real):
    train, test = sets
    _, held_out = halves(test)
    samples = made(train, [train.of_class(k)[:40] for k in range(10)])
    noisy = (samples.images.int() + torch.randint(-4, 5, samples.images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255).byte()
    samples = type(samples)(noisy, samples.labels, samples.classes, "stored", "generated", "")
    assert latent.collapsed(mean_by_name(samples), real) == []
    assert latent.memorised(distances(samples, train), distances(held_out, train))["verdict"] == "memorised"


def test_unseen_real_images_get_a_clean_bill(sets, real):
    train, test = sets
    samples, held_out = halves(test)
    assert latent.collapsed(mean_by_name(samples), real) == []
    found = latent.memorised(distances(samples, train), distances(held_out, train))
    assert found["verdict"] == "clean" and found["p"] > 0.05 and 0.95 < found["ratio"] < 1.05
    reached = [[latent.mode_count(s.images[s.of_class(k)], train.images[train.of_class(k)]) for k in range(10)] for s in (samples, held_out)]
    assert all(0.75 < a / b < 1.33 for a, b in zip(*reached))
    C = Closed(train)
    probs, right = {}, {}
    for who, s in (("samples", samples), ("real", held_out)):
        probs[who] = C.probs(s.images)
        right[who] = (probs[who].argmax(1) == s.labels).double().numpy()
    low, high = stats.bootstrap(right["real"], draws=1000)
    assert low <= right["samples"].mean() <= high
    low, high = stats.bootstrap(probs["real"].numpy(), lambda rows: scores.inception_score(rows, splits=1)[0], draws=200)
    assert low <= scores.inception_score(probs["samples"], splits=1)[0] <= high


def test_smooth_pictures_are_closer_but_no_copies(sets):
    train, test = sets
    samples, held_out = halves(test)
    smooth = avg_pool2d(samples.images.float(), 5, 1, 2, count_include_pad=False).round().byte()
    near = similarity.nearest(smooth, train.images, labels=samples.labels, bank_labels=train.labels)[0][:, 0]
    found = latent.memorised(near, distances(held_out, train))
    assert found["verdict"] == "closer" and found["p"] < 1e-3 and found["copies"] < found["copies of held-out"]


def test_accuracy_does_not_see_one_image_a_class(sets):
    train, _ = sets
    C = Closed(train)
    right = (C.probs(train.images).argmax(1) == train.labels).double()
    picks = torch.randint(0, 120, (500, 10), generator=torch.Generator().manual_seed(0)) + 120 * torch.arange(10)
    assert right[picks].mean() > right.mean() - 0.05


def test_ms_ssim_of_repeated_images_follows_their_number(sets):
    train, _ = sets
    few = made(train, [train.of_class(k)[:40] for k in range(10)])
    whole = sum(mean for mean, _ in similarity.mean_ms_ssim(few.images, few.labels, "all").values()) / 10
    for m in (1, 2, 5, 20):
        copies = made(few, [few.of_class(k)[torch.arange(40) % m] for k in range(10)])
        found = sum(mean for mean, _ in similarity.mean_ms_ssim(copies.images, copies.labels, pairs=200).values()) / 10
        same = (40 / m - 1) / 39
        assert found == pytest.approx(same + (1 - same) * whole, abs=0.06)
