"""Paths, layouts, collapse and copies against brute force, closed forms and generators whose answer is known."""
import itertools
import math

import numpy as np
import pytest
import torch

from acgan import latent
from acgan.config import UserError


def g(seed=0):
    return torch.Generator().manual_seed(seed)


class Mixer(torch.nn.Module):
    """A generator with a known rule: a picture from z alone (`own` = 0), from the class alone (`own` = 1), or between."""

    def __init__(self, z_dim=8, n_classes=3, own=0.5):
        super().__init__()
        self.z_dim, self.own = z_dim, own
        self.of_z = torch.nn.Parameter(torch.randn(z_dim, 192, generator=g(1)) * 0.2)
        self.of_c = torch.nn.Parameter(torch.randn(n_classes, 192, generator=g(2)) * 0.2)

    def forward(self, z, c):
        x = (1 - self.own) * z @ self.of_z + self.own * self.of_c[c]
        return x.view(-1, 3, 8, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_paths_end_where_their_noise_says():
    z0, z1 = torch.randn(3, 5, generator=g()), torch.randn(3, 5, generator=g(1))
    path = latent.interpolate(z0, z1, 7)
    for b, t in itertools.product(range(3), range(7)):
        assert torch.allclose(path[b, t], z0[b] + (z1[b] - z0[b]) * t / 6, atol=1e-6)


def test_roughness_of_an_even_walk_and_of_a_jump():
    start = torch.randint(0, 120, (4, 1, 3, 8, 8), generator=g())
    even = (start + 10 * torch.arange(6).view(1, 6, 1, 1, 1)).to(torch.uint8)
    assert latent.path_smoothness(even, [0] * 4)["ratio"].tolist() == [1, 1, 1, 1]
    ends = torch.randint(0, 256, (40, 2, 3, 8, 8), dtype=torch.uint8, generator=g(1))
    hop = ends[:, [0, 0, 0, 1, 1, 1]]
    assert latent.path_smoothness(hop, [0] * 40)["share"].mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("own, low, high", [(0.0, 0.99, 1.01), (0.5, 0.97, 1.01)])
def test_layout_is_kept_where_z_makes_it(own, low, high):
    kept = latent.layout_correlation(latent.fixed_z(Mixer(own=own), 40, range(3)))
    assert low < kept["same"].mean() < high and abs(kept["different"].mean()) < 0.15


def test_directions_find_the_singular_vectors_of_a_linear_generator():
    G = Mixer(own=0.0)
    with torch.no_grad():
        G.of_z.mul_(torch.linspace(0.3, 0.02, 8)[:, None])                               # weak enough not to clip at white and black
    V, share = latent.directions(G, 0, n=3000, k=8)
    U, S, _ = torch.linalg.svd(G.of_z.detach().double(), full_matrices=False)
    assert torch.allclose(V @ V.T, torch.eye(8), atol=1e-5) and share.sum() == pytest.approx(1, abs=0.02)
    assert torch.allclose(share, (S**2 / (S**2).sum()), atol=0.02)
    assert (V[:3].double() * U[:, :3].T).sum(1).abs().min() > 0.97


def test_traversals_move_only_along_their_direction():
    seen = []
    class Spy(Mixer):
        def forward(self, z, c):
            seen.append(z)
            return super().forward(z, c)
    V = torch.linalg.qr(torch.randn(8, 8, generator=g(3)))[0][:2]
    X = latent.traverse(Spy(), 1, V, steps=5, reach=2.0)
    z = torch.cat(seen).view(2, 5, 8)
    assert X.shape == (2, 5, 3, 16, 16)
    for i in range(2):
        assert torch.allclose(z[i] @ V[i], torch.tensor([-2.0, -1, 0, 1, 2]), atol=1e-5)
        rest = z[i] - (z[i] @ V[i])[:, None] * V[i]
        assert torch.allclose(rest, rest[:1].expand(5, -1), atol=1e-5)


@pytest.mark.parametrize("real", [0.0, 0.05, 0.2, 0.4, 0.5, 0.6, 0.9, 0.99])
def test_collapse_has_a_mark_that_one_image_always_exceeds(real):
    values = np.linspace(0, 1, 1001)
    flags = [latent.collapsed({"a": v}, {"a": real}) == ["a"] for v in values]
    mark = values[flags.index(True)]
    assert flags == sorted(flags) and flags[-1], "a threshold, and MS-SSIM of 1 is always above it"
    assert mark == pytest.approx(max(0.25, 1.5 * real if real <= 0.5 else (1 + real) / 2), abs=2e-3) and not flags[round(1000 * real)]


def test_collapsed_since_is_the_last_unbroken_stretch():
    rng = np.random.default_rng(0)
    real = {name: 0.1 for name in "abcdef"}
    for _ in range(50):
        looks = [(10 * i, {name: float(rng.random()) for name in real}) for i in range(1, 7)]
        expected = {}
        for name in real:
            steps = [step for step, _ in looks]
            bad = [row[name] > 0.25 for _, row in looks]
            if bad[-1]:
                expected[name] = next(step for i, step in enumerate(steps) if all(bad[i:])) if not all(bad) else None
        assert latent.collapsed_since(looks, real) == expected


def test_modes_reached_is_counted_by_brute_force():
    bank, x = (torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=g(n)) for n in (30, 25))
    d = np.abs(x.numpy().astype(int)[:, None] - bank.numpy().astype(int)[None]).sum((2, 3, 4))
    assert latent.mode_count(x, bank) == len(set(d.argmin(1)))
    assert latent.mode_count(bank, bank) == 30


@pytest.mark.parametrize("d, sigma", [(1, 1.0), (3, 20.0), (6, 0.5)])
def test_knn_entropy_of_a_gaussian_is_known(d, sigma):
    x = sigma * torch.randn(3000, d, dtype=torch.float64, generator=g(d))
    assert latent.knn_entropy(x) == pytest.approx(d / 2 * math.log(2 * math.pi * math.e * sigma**2), abs=0.08 * d)


def test_knn_entropy_of_copies_is_minus_infinity():
    assert latent.knn_entropy(torch.zeros(5, 3, 4, 4, dtype=torch.uint8)) == -math.inf


def test_contrast_jitter_keeps_the_mean_and_the_pattern():
    x = torch.randint(60, 190, (20, 3, 16, 16), dtype=torch.uint8, generator=g())
    y = latent.contrast_jitter(x, 0.3, seed=5)
    for a, b in zip(x.double(), y.double()):
        factor = (b - b.mean()).norm() / (a - a.mean()).norm()
        assert 0.69 < factor < 1.31 and abs(a.mean() - b.mean()) < 0.5
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.999
    assert torch.equal(y, latent.contrast_jitter(x, 0.3, seed=5)) and not torch.equal(y, latent.contrast_jitter(x, 0.3, seed=6))


def test_memorised_reports_the_two_tests_as_defined():
    rng = np.random.default_rng(3)
    a, b = rng.gamma(9, size=40), rng.gamma(9, size=60)
    a[:12] = 0.1
    found = latent.memorised(a, b)
    grid = np.sort(np.concatenate([a, b]))
    assert found["statistic"] == pytest.approx(max((a <= x).mean() - (b <= x).mean() for x in grid))
    middle = float(torch.tensor(b).median())
    near = int((a < middle / 2).sum()), int((b < middle / 2).sum())
    assert found["copies"] == near[0] / 40 and found["copies of held-out"] == near[1] / 60 and near[0] >= 12
    total = sum(near)
    p = sum(math.comb(40, i) * math.comb(60, total - i) for i in range(near[0], min(40, total) + 1)) / math.comb(100, total)
    assert (found["verdict"] == "memorised") == (p < 0.05)


def test_memorised_gives_false_alarms_at_its_level_only():
    rng, verdicts = np.random.default_rng(4), []
    for _ in range(300):
        verdicts.append(latent.memorised(rng.gamma(9, size=100), rng.gamma(9, size=100))["verdict"])
    assert verdicts.count("clean") > 0.9 * 300


def test_memorised_when_held_out_images_are_copies_too():
    same = [0.0] * 30
    assert latent.memorised(same, same)["verdict"] == "clean", "a class with one picture is not the generator's fault"
    with pytest.raises(UserError, match="at least 2 of each"):
        latent.memorised(same, [])
