"""MS-SSIM against a plain SciPy computation, pytorch-msssim and known values; neighbours against SciPy, faiss and integers."""

import sys

import numpy as np
import pytest
import torch
from scipy import ndimage, signal
from scipy.spatial.distance import cdist

from acgan import similarity
from acgan.config import UserError
from acgan.similarity import (L1_FORMS, all_pairs, draw_pairs, l1, l1_form, largest_ms_ssim, pair_terms_sum_diff, mean_ms_ssim, moments, ms_ssim,
                              ms_ssim_3, ms_ssim_distance, nearest, pair_error, pair_scores, pair_terms)

C1, C2 = 6.5025, 58.5225
WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
pytestmark = pytest.mark.usefixtures("one_thread")


def natural(n, side, seed=0, colours=3, alike=0.5):
    """uint8 [n,colours,side,side] with a falling spectrum, `alike` of each image common to all."""
    rng = np.random.default_rng(seed)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side))) + 1 / side
    noise = rng.standard_normal((n + 1, colours, side, side))
    image = np.fft.ifft2(np.fft.fft2(noise) / f).real
    image = image / image.std((2, 3), keepdims=True)
    image = alike * image[:1] + (1 - alike) * image[1:]
    return torch.from_numpy(np.clip(128 + 60 * image, 0, 255).astype(np.uint8))


def plain(x, y, scales=5, absolute=False, fixed_sigma=False):
    """Terms [scales,C] of one pair uint8 [C,H,W], one colour at a time by two-dimensional direct correlation."""
    x, y = x.numpy().astype(float), y.numpy().astype(float)
    terms = []
    for level in range(scales):
        size = min(11, *x.shape[1:])
        spike = np.zeros(size + 1 - size % 2)                # SciPy's own Gaussian filter makes the window of odd size
        spike[len(spike) // 2] = 1
        sigma = 1.5 if fixed_sigma else 1.5 * size / 11
        if size % 2:
            g = ndimage.gaussian_filter1d(spike, sigma, radius=size // 2, mode="constant")
        else:
            g = signal.windows.gaussian(size, sigma)
        window = np.multiply.outer(g, g) / np.sum(g) ** 2
        row = []
        for a, b in zip(x, y):
            m = {name: signal.correlate2d(v, window, mode="valid") for name, v in dict(a=a, b=b, aa=a * a, bb=b * b, ab=a * b).items()}
            cov = m["ab"] - m["a"] * m["b"]
            cs = (2 * (abs(cov) if absolute else cov) + C2) / (m["aa"] - m["a"] ** 2 + m["bb"] - m["b"] ** 2 + C2)
            light = (2 * m["a"] * m["b"] + C1) / (m["a"] ** 2 + m["b"] ** 2 + C1)
            row.append((cs * light if level == scales - 1 else cs).mean())
        terms.append(row)
        x, y = (ndimage.uniform_filter(v, (0, 2, 2), mode="nearest", origin=(0, -1, -1))[:, ::2, ::2] for v in (x, y))
    return np.array(terms)


def score(terms, weights=WEIGHTS):
    return np.prod(np.maximum(terms.mean(1), 0) ** weights)


@pytest.mark.parametrize("side", [16, 17, 32, 45, 64, 100, 128])
def test_equals_plain_float64(side):
    n = 3 if side > 64 else 8
    x, y = natural(n, side, 1), natural(n, side, 1, alike=0.8)
    x[0], y[0] = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(side))
    expected = [score(plain(a, b)) for a, b in zip(x, y)]
    np.testing.assert_allclose(ms_ssim(x, y), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ms_ssim(x, y, dtype=torch.float32), expected, rtol=0, atol=1e-5)


def test_black_and_white_images():
    """The hardest case for rounding: values far from their mean and windows without variance."""
    g = torch.Generator().manual_seed(0)
    blocks = (torch.rand(4, 3, 8, 8, generator=g) < 0.5).repeat_interleave(8, 2).repeat_interleave(8, 3)
    x, y = (blocks * 255).to(torch.uint8), (blocks.roll(3, 3) * 255).to(torch.uint8)
    np.testing.assert_allclose(ms_ssim(x, y), [score(plain(a, b)) for a, b in zip(x, y)], rtol=0, atol=1e-12)


def test_other_variants_equal_plain_float64():
    x, y = natural(6, 32, 2), natural(6, 32, 3)
    np.testing.assert_allclose(ms_ssim(x, y, "abs"), [score(plain(a, b, absolute=True)) for a, b in zip(x, y)], atol=1e-12)
    three = [score(plain(a, b, scales=3), WEIGHTS[:3] / WEIGHTS[:3].sum()) for a, b in zip(x, y)]
    np.testing.assert_allclose(ms_ssim_3(x, y), three, atol=1e-12)
    terms = np.mean([plain(a, b).mean(1) for a, b in zip(x, y)], 0)
    np.testing.assert_allclose(ms_ssim(x, y, pooling="batch"), np.prod(np.maximum(terms, 0) ** WEIGHTS), atol=1e-12)
    per_colour = [np.prod(np.maximum(plain(a, b, fixed_sigma=True), 0) ** WEIGHTS[:, None], 0).mean() for a, b in zip(x, y)]
    np.testing.assert_allclose(ms_ssim(x, y, variant="compare_gan"), per_colour, atol=1e-12)


@pytest.mark.parametrize("side", [176, 192])
def test_equals_pytorch_msssim(side):
    """On grey images the two definitions agree; on colour pytorch-msssim pools as compare_gan does."""
    import pytorch_msssim
    x, y = natural(3, side, 4), natural(3, side, 5, alike=0.7)
    g = torch.from_numpy(signal.windows.gaussian(11, 1.5))                       # its own window is rounded to float32
    g = (g / g.sum()).expand(3, 1, 1, 11)
    grey = x[:, :1].expand(-1, 3, -1, -1), y[:, :1].expand(-1, 3, -1, -1)
    for (a, b), variant in ((grey, "tf2016"), ((x, y), "compare_gan")):
        theirs = pytorch_msssim.ms_ssim(a.double(), b.double(), data_range=255, size_average=False, win=g, weights=list(WEIGHTS))
        np.testing.assert_allclose(ms_ssim(a, b, variant=variant), theirs, rtol=0, atol=1e-6)


def test_properties():
    x, y = natural(20, 32, 6, alike=0.1), natural(20, 32, 7, alike=0.1)
    assert torch.equal(ms_ssim(x, y), ms_ssim(y, x))
    np.testing.assert_allclose(ms_ssim(x, x), 1, atol=1e-13)
    clipped, raw = ms_ssim(x, y), ms_ssim(x, y, "nan")
    assert raw.isnan().any() and torch.equal(clipped[~raw.isnan()], raw[~raw.isnan()]) and (clipped[raw.isnan()] == 0).all()
    assert (ms_ssim(x, 255 - x) == 0).all() and ms_ssim(x, 255 - x, "nan").isnan().all()
    assert clipped.dtype == torch.float64 and clipped.shape == (20,)


def test_blocks_change_nothing(monkeypatch):
    x, y = natural(9, 64, 8), natural(9, 64, 9)
    whole = ms_ssim(x, y)
    monkeypatch.setattr("acgan.similarity.block_size", lambda images: 2)
    np.testing.assert_allclose(ms_ssim(x, y), whole, rtol=0, atol=1e-13)


def test_lone_pairs_equal_kept_moments():
    """Sums and differences give what the five blurs of the definition give, in every treatment of the covariance."""
    for x, y in ((natural(6, 45, 2), natural(6, 45, 3)), (natural(4, 32, 2) // 64 * 64, natural(4, 32, 9) // 64 * 64)):
        for absolute in (False, True):
            for variant in ("tf2016", "compare_gan"):
                kept = pair_terms(moments(x, variant=variant), moments(y, variant=variant), absolute)
                torch.testing.assert_close(pair_terms_sum_diff(x, y, variant=variant, absolute=absolute), kept, rtol=0, atol=1e-11)


def test_wide_images():
    x, y = natural(2, 96, 1)[:, :, :40], natural(2, 96, 2)[:, :, :40]
    np.testing.assert_allclose(ms_ssim(x, y), [score(plain(a, b)) for a, b in zip(x, y)], atol=1e-12)


def test_all_pairs_and_moments():
    x = natural(23, 32, 10)
    i, j = np.triu_indices(23, 1)
    table = all_pairs(x, tile=10)
    np.testing.assert_allclose(table[i, j], ms_ssim(x[i], x[j]), rtol=0, atol=1e-13)
    level = moments(x)[0]
    windows = x.double().unfold(2, 11, 1).unfold(3, 11, 1)                       # B,C,h,w,11,11
    g = torch.from_numpy(signal.windows.gaussian(11, 1.5))
    g = torch.outer(g, g) / g.sum() ** 2
    mean = (windows * g).sum((-2, -1))
    torch.testing.assert_close(level.mu.permute(1, 2, 0, 3) + 128, mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(level.var.permute(1, 2, 0, 3), (windows.square() * g).sum((-2, -1)) - mean**2, rtol=0, atol=1e-8)


def test_class_means():
    images, labels = torch.cat([natural(12, 32, 1, alike=0.9), natural(12, 32, 2, alike=0.0)]), torch.arange(2).repeat_interleave(12)
    every = mean_ms_ssim(images, labels, pairs="all")
    scores, index = pair_scores(images[:12], pairs="all")
    assert len(scores) == 66 and every[0] == pytest.approx((scores.mean().item(), scores.std(correction=0).item()))
    assert every[0][0] > 0.8 > 0.3 > every[1][0]
    some = mean_ms_ssim(images, labels, pairs=20, seed=1)
    assert some[0][0] == pytest.approx(every[0][0], abs=0.03)
    order = torch.arange(24).view(2, 12).T.flatten()                                        # the classes interleaved
    assert some == mean_ms_ssim(images[order], labels[order], pairs=20, seed=1)
    assert some[0] == mean_ms_ssim(images[:12], labels[:12], pairs=20, seed=1)[0]            # a class alone draws the same pairs


def test_largest_class_mean_of_the_authors_equals_plain_float64():
    """The first ten images of each class in the order of the file, five mirrored pairs, |sigma_12|; later images play no part."""
    images, labels = natural(36, 32, 8, alike=0.3), torch.arange(3).repeat(12)
    images[labels == 1] = natural(12, 32, 9, alike=0.9)
    expected = []
    for k in range(3):
        ten = images[labels == k][:10]
        expected.append(np.mean([score(plain(ten[i], ten[9 - i], absolute=True)) for i in range(5)]))
    value, which = largest_ms_ssim(images, labels, "zhou2018")
    assert which == 1 == int(np.argmax(expected))
    assert value == pytest.approx(max(expected), abs=1e-12)
    images[-1] = 255 - images[-1]
    assert largest_ms_ssim(images, labels, "zhou2018") == (value, which)
    every = {k: ms_ssim(*(images[labels == k][torch.triu_indices(12, 12, 1)[side]] for side in (0, 1))).mean().item() for k in range(3)}
    assert largest_ms_ssim(images, labels, pairs="all")[0] == pytest.approx(max(every.values()))


def test_pairs_are_uniform():
    counts = torch.zeros(6, 6)
    for seed in range(600):
        for i, j in draw_pairs(6, 3, seed).tolist():
            counts[i, j] += 1
    drawn = counts[torch.triu(torch.ones(6, 6), 1) > 0]
    assert counts.sum() == 1800 and drawn.numel() == 15 and (drawn - 120).abs().max() < 5 * 120**0.5


def test_pair_error_covers():
    """Over many draws the error equals the spread of the mean."""
    rng = np.random.default_rng(0)
    index = draw_pairs(30, "all")
    means, errors = [], []
    for _ in range(400):
        a = torch.from_numpy(rng.standard_normal(30))
        s = a[index[:, 0]] + a[index[:, 1]] + torch.from_numpy(rng.standard_normal(len(index)))
        means.append(s.mean().item())
        errors.append(pair_error(s, index))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


def test_l1_equals_integers_scipy_and_faiss():
    import faiss
    bank, queries = natural(300, 16, 1), natural(50, 16, 2)
    ints = (queries[:, None].int() - bank[None].int()).abs().sum((2, 3, 4))
    distance, index = nearest(queries, bank, k=5)
    order = np.argsort(ints.numpy(), 1, kind="stable")[:, :5]
    assert (index.numpy() == order).all() and (distance.numpy() == np.take_along_axis(ints.numpy(), order, 1)).all()
    city = cdist(queries.flatten(1).double(), bank.flatten(1).double(), "cityblock")
    assert (distance[:, 0].numpy() == city.min(1)).all()
    theirs = faiss.IndexFlat(3 * 16 * 16, faiss.METRIC_L1)
    theirs.add(bank.flatten(1).float().numpy())
    d, i = theirs.search(queries.flatten(1).float().numpy(), 5)
    assert (d == distance.numpy()).all() and (i == index.numpy()).all()


@pytest.mark.parametrize("form", L1_FORMS)
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 5, 5), (3, 17, 19), (3, 33, 31), (3, 80, 80)])
def test_ways_to_sum_differences_agree(form, shape):
    """Sizes below, at and above a piece, not multiples of anything; the extremes; more queries than faiss is given at once."""
    rng = torch.Generator().manual_seed(sum(shape))
    queries, bank = (torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=rng) for n in (37, 150))
    queries[0], queries[1], bank[:3], bank[3:5] = 0, 255, 255, 0
    whole = torch.stack([(bank.int() - q.int()).abs().flatten(1).sum(1) for q in queries]).double()
    if form == "faiss":
        pytest.importorskip("faiss")
    assert torch.equal(l1(queries, bank, form), whole)
    distance, index = nearest(queries, bank, k=4, chunk=64, form=form)
    order = np.argsort(whole.numpy(), 1, kind="stable")[:, :4]
    assert (index.numpy() == order).all() and (distance.numpy() == np.take_along_axis(whole.numpy(), order, 1)).all()


def test_without_faiss(monkeypatch):
    bank, queries = natural(80, 16, 1), natural(9, 16, 2)
    given = nearest(queries, bank, k=3)
    monkeypatch.setattr(similarity, "find_faiss", lambda: None)
    assert l1_form("cpu") == "maximum"
    assert all(torch.equal(a, b) for a, b in zip(given, nearest(queries, bank, k=3)))


def test_a_faiss_that_cannot_be_used_is_left_alone(monkeypatch, tmp_path):
    (tmp_path / "faiss.py").write_text("raise ImportError('built for another NumPy')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    similarity.find_faiss.cache_clear()
    try:
        assert similarity.find_faiss() is None and l1_form("cpu") == "maximum"
    finally:
        similarity.find_faiss.cache_clear()


def test_the_bank_is_read_once_in_bounded_parts():
    class Counted:
        shape, read = (20_000, 3, 32, 32), []

        def __len__(self):
            return self.shape[0]

        def __getitem__(self, place):
            rows = range(*place.indices(len(self)))
            self.read.append(len(rows))
            images = np.full((len(rows), *self.shape[1:]), 200, np.uint8)
            images[[r % 7000 == 6999 for r in rows]] = 3
            return images

    bank = Counted()
    distance, index = nearest(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), bank, k=3)
    assert index.tolist() == [[6999, 13999, 0]] * 2 and distance[0].tolist() == [9216, 9216, 614400]
    assert sum(bank.read) == 20_000 and max(bank.read) * 3072 <= 2**24


@pytest.mark.parametrize("metric", ["l1", "ms_ssim"])
def test_chunks_and_memory_maps(metric, tmp_path):
    bank = natural(60, 16, 3)
    bank[41:44] = bank[7]                                                  # ties
    np.save(tmp_path / "bank.npy", bank.numpy())
    stream = np.load(tmp_path / "bank.npy", mmap_mode="r")
    expected = nearest(bank[5:9], bank, metric, k=4)
    assert expected[1][2].tolist() == [7, 41, 42, 43] and (expected[0][2].abs() < 1e-12).all()
    for chunk in (1, 7, 60, 1000):
        for source in (bank, stream):
            d, i = nearest(bank[5:9], source, metric, k=4, chunk=chunk)
            torch.testing.assert_close(d, expected[0], rtol=0, atol=0 if metric == "l1" else 1e-12)
            assert torch.equal(i, expected[1]) or metric == "ms_ssim"


def test_neighbours_of_the_same_class():
    bank, labels = natural(40, 16, 4), torch.arange(40) % 4
    queries, mine = natural(6, 16, 5), torch.tensor([0, 1, 2, 3, 0, 1])
    distance, index = nearest(queries, bank, labels=mine, bank_labels=labels, k=2, chunk=3)
    for q, c, found in zip(queries, mine, index):
        own = (labels == c).nonzero()[:, 0]
        assert found.tolist() == own[nearest(q[None], bank[own], k=2)[1][0]].tolist()


def test_ms_ssim_neighbour():
    bank = natural(30, 32, 6, alike=0.2)
    query = (bank[17:18].int() + 20).clamp(max=255).to(torch.uint8)       # brighter: far in L1, near in structure
    distance, index = nearest(query, bank, "ms_ssim", k=2)
    assert index[0, 0] == 17 and distance[0, 0].item() == pytest.approx(1 - ms_ssim(query, bank[17:18]).item(), abs=1e-12)
    assert ms_ssim_distance(query, bank).shape == (1, 30)


def test_large_images_are_summed_exactly():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 256, (2, 3, 300, 300), dtype=torch.uint8, generator=rng) for _ in range(2))
    a[0], b[0] = 0, 255
    assert torch.equal(nearest(a, b, k=2)[0].sort(1).values, (a[:, None].long() - b[None].long()).abs().sum((2, 3, 4)).double().sort(1).values)


def byte(*shape):
    return torch.zeros(*shape, dtype=torch.uint8)


@pytest.mark.parametrize("call, words", [
    (lambda: ms_ssim(byte(1, 3, 15, 16), byte(1, 3, 15, 16)), "15x16 pixels are too small"),
    (lambda: ms_ssim(torch.zeros(1, 3, 32, 32), byte(1, 3, 32, 32)), "x must be a uint8 tensor"),
    (lambda: ms_ssim(byte(1, 3, 32, 32), byte(2, 3, 32, 32)), "must have one shape"),
    (lambda: ms_ssim(byte(3, 32, 32), byte(3, 32, 32)), r"shape \[B,C,H,W\]"),
    (lambda: ms_ssim(byte(0, 3, 32, 32), byte(0, 3, 32, 32)), "B >= 1"),
    (lambda: ms_ssim(byte(1, 3, 32, 32), byte(1, 3, 32, 32), negatives="drop"), "unknown treatment of negative terms"),
    (lambda: ms_ssim(byte(1, 3, 32, 32), byte(1, 3, 32, 32), variant="x"), "unknown MS-SSIM variant"),
    (lambda: mean_ms_ssim(byte(3, 3, 32, 32), torch.tensor([0, 0, 1])), "class 1 has one image"),
    (lambda: mean_ms_ssim(byte(3, 3, 32, 32), torch.tensor([0, 0])), "3 images but 2 labels"),
    (lambda: nearest(byte(1, 3, 32, 32), byte(5, 3, 16, 16)), "must have images of one shape"),
    (lambda: nearest(byte(1, 3, 32, 32), byte(5, 3, 32, 32), "cosine"), "unknown metric"),
    (lambda: nearest(byte(1, 3, 32, 32), byte(5, 3, 32, 32), k=6), "only 5 images"),
    (lambda: nearest(byte(1, 3, 32, 32), byte(5, 3, 32, 32), labels=[1]), "both labels and bank_labels"),
])
def test_bad_input_is_one_line(call, words):
    with pytest.raises(UserError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
