"""Scores against torch-fidelity's own functions on the same numbers, SciPy and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from acgan.config import UserError
from acgan.models import Generator
from acgan.scores import (SUMS, Statistics, accuracy, am_score, am_terms, class_accuracy, fid, inception_score, kid, latent_sensitivity, mode_score,
                          score, score_name)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def logits(n=2000, k=10, seed=0):
    return 3 * torch.randn(n, k, generator=rng(seed), dtype=torch.float64)


@pytest.mark.parametrize("splits, seed", [(10, 2020), (1, 2020), (7, 5), (10, None)])
def test_inception_score_equals_torch_fidelity(splits, seed):
    from torch_fidelity.metric_isc import isc_features_to_metric
    x = logits(1999)
    theirs = isc_features_to_metric(x, splits, shuffle=seed is not None, rng_seed=seed)
    ours = inception_score(x.softmax(1), splits, seed)
    np.testing.assert_allclose(ours, (theirs["inception_score_mean"], theirs["inception_score_std"]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [300, 40])                       # more and fewer images than features
def test_fid_equals_torch_fidelity(n):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    a, b = (torch.randn(n, 64, generator=rng(s)) @ torch.randn(64, 64, generator=rng(s + 9)) + s for s in (0, 1))
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(f.double()) for f in (a, b)), False)["frechet_inception_distance"]
    assert fid(a, b) == pytest.approx(theirs, rel=1e-6)
    assert fid(Statistics(a), Statistics(b)) == fid(a, b) == pytest.approx(fid(b, a), rel=1e-8)


def test_fid_equals_scipy_sqrtm():
    a, b = torch.randn(200, 16, generator=rng(3), dtype=torch.float64) * 2, torch.randn(150, 16, generator=rng(4), dtype=torch.float64) ** 2
    S1, S2 = np.cov(a.numpy().T), np.cov(b.numpy().T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(S1 + S2 - 2 * linalg.sqrtm(S1 @ S2).real)
    assert fid(a, b) == pytest.approx(expected, rel=1e-8)


def test_kid_equals_torch_fidelity():
    from torch_fidelity.metric_kid import kid_features_to_metric
    a, b = (torch.randn(n, 32, generator=rng(n), dtype=torch.float64) + s for n, s in ((500, 0), (400, 0.2)))
    theirs = kid_features_to_metric(a, b, kid_subsets=10, kid_subset_size=200, rng_seed=2020, verbose=False)
    ours = kid(a, b, 10, 200, seed=2020)
    np.testing.assert_allclose(ours, list(theirs.values()), rtol=1e-9)


def test_kid_is_unbiased():
    a, b = torch.randn(4000, 8, generator=rng(1)), torch.randn(4000, 8, generator=rng(2))
    mean, std = kid(a, b, subsets=50, subset_size=100)
    assert abs(mean) < 4 * std / 50**0.5 and mean - 4 * std < 0


def test_entropy_and_kl_equal_scipy():
    p, q = logits(50).softmax(1), logits(70, seed=1).softmax(1)
    first, second = am_terms(p, q)
    assert first == pytest.approx(stats.entropy(q.mean(0), p.mean(0))) and second == pytest.approx(stats.entropy(p, axis=1).mean())
    mode = math.exp(np.mean([stats.entropy(row, q.mean(0)) for row in p]) - stats.entropy(p.mean(0), q.mean(0)))
    assert mode_score(p, q) == pytest.approx(mode) == pytest.approx(inception_score(p, 1)[0])


def test_am_score_is_zero_only_for_sure_and_matching():
    sure = torch.eye(5).repeat(4, 1)
    assert am_score(sure, sure) == pytest.approx(0, abs=1e-15) and am_score(sure, torch.full((5,), 0.2)) == pytest.approx(0, abs=1e-7)
    assert am_score(sure, torch.tensor([0.3, 0.1, 0.2, 0.2, 0.2])) > 0.02 and am_score(0.9 * sure + 0.02, sure) > 0.3
    assert am_score(torch.full((7, 5), 0.2), torch.full((7, 5), 0.2)) == pytest.approx(math.log(5))


def test_am_terms_with_the_authors_floor_equal_scipy():
    p, q = torch.eye(5)[:4].repeat(3, 1).double(), logits(60, 5).softmax(1)
    first, second = am_terms(p, q, floor=1e-18)
    train = q.mean(0).numpy()
    assert first == pytest.approx(np.sum(train * np.log(train / (p.mean(0).numpy() + 1e-18))))
    assert 1 < first < 41.5 and second == 0 and am_terms(p, q)[0] == math.inf
    soft = logits(60, 5, seed=1).softmax(1)
    assert am_terms(soft, q, floor=1e-18) == pytest.approx(am_terms(soft, q))


@pytest.mark.parametrize("how", SUMS)
def test_sensitivity_equals_finite_differences(how):
    G = Generator(32, 3, width=0.04, z_dim=5).double().eval()
    z, labels = torch.randn(2, 5, generator=rng(1), dtype=torch.float64), torch.tensor([0, 2])
    with torch.no_grad():
        columns = [(G(z + step, labels) - G(z - step, labels)).flatten(1) / 2e-5 for step in 1e-5 * torch.eye(5, dtype=torch.float64)]
    J = torch.stack(columns, 2)                                                             # N,pixels,Z
    expected = {"entries": J.abs().sum((1, 2)), "total": J.sum(1).abs().sum(1), "root": J.square().sum((1, 2)).sqrt()}[how]
    torch.testing.assert_close(latent_sensitivity(lambda z: G(z, labels), z, how), expected, rtol=1e-5, atol=1e-7)
    one = latent_sensitivity(lambda z: G(z, labels[:1]), z[:1], how)
    torch.testing.assert_close(one, expected[:1], rtol=1e-5, atol=1e-7)


def test_accuracy():
    p = logits(500).softmax(1)
    labels = torch.randint(0, 9, (500,), generator=rng())
    right = p.numpy().argmax(1) == labels.numpy()
    assert accuracy(p, labels) == right.mean() and accuracy(p.float().numpy(), labels.tolist()) == right.mean()
    by_class = class_accuracy(p, labels)
    np.testing.assert_allclose(by_class[:9], [right[labels.numpy() == c].mean() for c in range(9)])
    assert by_class[9].isnan()


def test_zero_probabilities_are_no_nan():
    p = torch.eye(4).repeat(25, 1)
    assert inception_score(p, 5)[0] > 3 and inception_score(p, 1) == pytest.approx((4, 0)) and mode_score(p, p) == pytest.approx(4)


def test_many_rows():
    """The paper's 50,000 rows of 1,000 classes, in one piece. How long it takes is a matter for `acgan.bench`."""
    p = torch.rand(50_000, 1000, generator=rng(), dtype=torch.float64)
    p /= p.sum(1, keepdim=True)
    mean = p.mean(0)
    expected = np.mean(np.sum(p.numpy() * (np.log(p.numpy()) - np.log(mean.numpy())), 1))
    assert inception_score(p, 1)[0] == pytest.approx(np.exp(expected), rel=1e-10)


def test_names():
    class Net:
        name, fingerprint = "resnet20", "abc"
    made = score(logits(100).softmax(1), Net(), splits=2)
    assert made.name == "ResNet-20 score" and made.weights == "abc" and "Inception" not in str(made)
    assert score_name("inception-2015").startswith("Inception Score (") and score_name("inception-torchvision").startswith("Inception Score (")
    assert not score_name("my inception").startswith("Inception Score")


p4 = torch.full((20, 4), 0.25)


@pytest.mark.parametrize("call, words", [
    (lambda: inception_score(torch.randn(20, 4, generator=rng())), "are not probabilities"),
    (lambda: inception_score(100 * p4), "row 0 sums to 100"),
    (lambda: inception_score(p4[0]), r"shape \[N,K\]"),
    (lambda: inception_score(p4[:0]), r"shape \[N,K\]"),
    (lambda: inception_score(p4 * float("nan")), "NaN or infinity in row 0"),
    (lambda: inception_score(torch.tensor([[1.5, -0.5]]), 1), "least value -0.5"),
    (lambda: inception_score(p4, 30), "cannot be cut into 30 splits"),
    (lambda: accuracy(p4, [0] * 19), "need as many labels"),
    (lambda: accuracy(p4, [4] * 20), "classes 0 to 3"),
    (lambda: am_score(p4, torch.full((3, 5), 0.2)), "4 classes and train_probs 5"),
    (lambda: fid(torch.zeros(5, 3), torch.zeros(5, 4)), "3 and 4 dimensions"),
    (lambda: fid(torch.zeros(1, 3), torch.zeros(5, 3)), "at least 2 images"),
    (lambda: kid(torch.zeros(5, 3), torch.zeros(5, 3)), "subsets of 1000 images cannot be drawn from 5 and 5"),
    (lambda: kid(torch.zeros(5, 3), torch.full((5, 3), math.inf), 2, 2), "NaN or infinity"),
])
def test_bad_input_is_one_line(call, words):
    with pytest.raises(UserError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
