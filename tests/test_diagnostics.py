"""The probe of a training, on generators whose faults were planted."""
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from acgan.data import Batches, load, to_float
from acgan.diagnostics import TrainingProbe, settled
from acgan.losses import OBJECTIVES
from acgan.training import GANConfig, TrainState, run_config

pytestmark = pytest.mark.usefixtures("one_thread")
JUDGE = {"epochs": 6, "width": 0.25, "batch": 32}


class Planted(nn.Module):
    """A generator of given images uint8 [K,n,3,R,R], in which a pixel may say the class and a grid may lie over everything."""

    def __init__(self, pool, code=False, grid=0.0, only=None):
        super().__init__()
        self.pool, self.code, self.grid, self.only, self.z_dim = to_float(pool), code, grid, only, 10
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, z, c):
        pick = (z[:, 0].abs() * 1e4).long() % self.pool.shape[1] if self.only is None else torch.full_like(c, self.only)
        x = self.pool[c if not self.code else torch.zeros_like(c), pick].clone()
        board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2 - 1
        x += self.grid * board
        if self.code:
            x[:, :, 0, 0] = (2 * c[:, None] / 3 - 1).float()
        return x.clamp(-1, 1)


class Reader(nn.Module):
    """A discriminator that reads the class from one pixel and knows nothing else."""

    def forward(self, x, rng=None):
        c = (x[:, 0, 0, 0] + 1) * 1.5
        return x.mean((1, 2, 3)), -(c[:, None] - torch.arange(4)).abs() * 10


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACGAN_WORK", str(tmp_path_factory.mktemp("work")))
        images, test = (load("blossoms", split=split, resolution=32, n_classes=4, per_class=100) for split in ("train", "test"))
        yield images, test, TrainingProbe(images, test, per_class=20, pairs=60, judge=JUDGE)


def state(images, **faults):
    pool = torch.stack([images.images[images.of_class(k)] for k in range(4)])
    return SimpleNamespace(G=Planted(pool, **faults), D=Reader(), ema=None, objective=OBJECTIVES["acgan"], device=torch.device("cpu"),
                           gan=SimpleNamespace(batch=20), batches=Batches(images),
                           config=SimpleNamespace(classes=tuple(images.classes)))


def words(looked):
    return {line.split()[0] for line in looked["warnings"]} & {"private", "checkerboard:", "little"}


def test_real_images_have_none_of_the_faults(sets):
    images, _, probe = sets
    looked = probe(state(images))
    assert looked["class_fake_judge"] > 0.5
    assert words(looked) == set()


def test_a_private_code_is_named(sets):
    images, _, probe = sets
    looked = probe(state(images, code=True))
    assert looked["class_fake_d"] == 1
    assert looked["class_fake_judge"] < 0.4
    assert "private" in words(looked)


def test_a_checkerboard_is_named(sets):
    images, _, probe = sets
    assert "checkerboard:" in words(probe(state(images, grid=0.5)))


def test_one_image_a_class_is_named(sets):
    images, _, probe = sets
    looked = probe(state(images, only=3))
    assert min(looked["ms_ssim"].values()) > 0.999
    assert "little" in words(looked)


def test_an_untrained_generator_is_no_clean_bill(sets):
    images, _, probe = sets
    looked = probe(TrainState(run_config(GANConfig(width=0.1, batch=20), images), images))
    assert "little" in words(looked)


def test_dropout_hides_what_d_knows(sets):
    """With dropout the same images get other logits each time; the settled copy draws nothing and leaves D as it is."""
    images = sets[0]
    t = TrainState(run_config(GANConfig(width=0.25, batch=50, dropout=0.9, noise_std=0), images), images)
    D, x = t.D, torch.randn(50, 3, 32, 32)
    spread = lambda net: torch.stack([net(x, torch.Generator().manual_seed(i))[0] for i in range(5)]).std(0).mean()
    assert spread(D) > 0
    assert spread(settled(D)) == 0
    before = {name: value.clone() for name, value in D.state_dict().items()}
    settled(D)(x)
    assert all(torch.equal(value, before[name]) for name, value in D.state_dict().items()), "running statistics are D's own"
