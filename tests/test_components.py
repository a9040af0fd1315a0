"""A critique's trained questions: the profiles train what the analyses name, a D that is given the label learns in every form of training, and
both studies run where there are no larger images."""
import math

import pytest
import torch

from acgan.analyses.components import OBJECTIVE_OF
from acgan.analyses.loss_mixing import mixture, weight_of
from acgan.claims import records
from acgan.config import profile
from acgan.data import blossoms
from acgan.ensemble import named_members, part_of
from acgan.losses import OBJECTIVES, terms
from acgan.populations import BatchedTrainer, fused_discriminator_step, fused_generator_step, stacked_terms
from acgan.training import descend, discriminator_step, GANConfig, generator_step, run_config, TrainState
from studies import PROFILE, study, TINY

PROFILES = ["quick", "cifar10-cpu", "cifar10", "gpu", "paper"]
CLASSES = [str(k) for k in range(10)]


def settings_in(name, part):
    """{variant: GANConfig} of the first seeds of a profile's part."""
    return {who: gan for who, gan in named_members(profile(name), part, CLASSES).items() if "restart" not in who}


@pytest.mark.parametrize("name", PROFILES)
def test_the_models_differ_in_their_objective_alone(name):
    found = settings_in(name, "critique_components")
    assert {who: gan.objective for who, gan in found.items()} == OBJECTIVE_OF
    assert {who: gan.classes for who, gan in found.items() if gan.classes is not None} == {"GAN, one class": (0,)}
    assert len({str({key: v for key, v in vars(gan).items() if key not in ("objective", "classes")}) for gan in found.values()}) == 1
    assert part_of(profile(name), "critique_components")["n_seeds"] >= 3


@pytest.mark.parametrize("name", PROFILES)
def test_eleven_mixtures_and_one_weight_of_1_over_k(name):
    found = settings_in(name, "critique_weights")
    mixed = {who: gan.loss_weights for who, gan in found.items() if who.startswith("w ")}
    assert mixed == {f"w {k / 10:g}": mixture(k / 10) for k in range(11)}
    other, = (gan.loss_weights for who, gan in found.items() if who not in mixed)
    assert weight_of(other) == pytest.approx(len(CLASSES) / (len(CLASSES) + 1))


@pytest.mark.parametrize("name", ["cgan", "cgan-blind"])
def test_stacked_terms_are_those_of_each_member(name):
    rng = torch.Generator().manual_seed(0)
    out = torch.randn(3, 5, generator=rng), torch.randn(3, 5, 4, generator=rng)
    c = torch.randint(-1, 4, (3, 5), generator=rng)
    weights = {"source": torch.tensor([1.0, 0.5, 2.0])}
    together = stacked_terms(OBJECTIVES[name].d, weights, out, c, out, c.clamp(min=0), "d")
    for m in range(3):
        one = out[0][m], out[1][m]
        alone = terms(OBJECTIVES[name].d, one, c[m], one, c[m].clamp(min=0), {"source": weights["source"][m].item()}, "d")
        assert set(alone) == set(together)
        for term, value in alone.items():
            assert together[term][m].item() == pytest.approx(value.item(), rel=1e-5)


def test_a_conditional_gan_trains_alike_alone_and_in_a_group():
    images = blossoms(3, 20, 32)
    configs = [run_config(GANConfig(objective="cgan", seed=seed, **TINY), images) for seed in range(2)]
    alone, grouped = ([TrainState(config, images) for config in configs] for _ in range(2))
    group = BatchedTrainer(grouped)
    batches = [t.batches.next() for t in grouped]
    rows = fused_discriminator_step(group, *(torch.stack(part) for part in zip(*batches)))
    fused_generator_step(group)
    for m, t in enumerate(alone):
        row = discriminator_step(t)
        generator_step(t)
        for key in ("d_loss", "source_real", "source_fake", "d_real_accuracy"):
            assert rows[key][m].item() == pytest.approx(row[key].item(), abs=1e-4)
        assert row["class_real"] == row["class_fake"] == 0


def test_a_d_with_the_label_finds_exchanged_labels_and_a_blind_one_cannot():
    """The fakes are the real images under a wrong label. D of `cgan` learns to tell them; no D of `cgan-blind` has a loss below 2 log 2."""
    images = blossoms(3, 40, 32)
    found = {}
    for name in ("cgan", "cgan-blind"):
        t = TrainState(run_config(GANConfig(objective=name, width=0.05, width_d=0.125, batch=24, z_dim=4, dropout=0.0, noise_std=0.0, lr_d=2e-3), images), images)
        losses = []
        for _ in range(50):
            x, c = t.batches.next()
            out = t.D(x)
            losses.append(sum(terms(OBJECTIVES[name].d, out, c, out, (c + 1) % 3).values()))
            descend(t.opt_d, losses[-1])
        found[name] = [loss.item() for loss in losses]
    assert sum(found["cgan"][-5:]) / 5 < 1.0
    assert min(found["cgan-blind"]) > 2 * math.log(2) - 1e-4


def tiny():
    part = {"steps": 2, "n_seeds": 2, "checkpoint_every": 2, "log_every": 1, "gan": TINY}
    models = {who: {"objective": name} | ({"classes": [0]} if "one class" in who else {}) for who, name in OBJECTIVE_OF.items()}
    mixed = {f"w {w:g}": {"loss_weights": mixture(w)} for w in (0.0, 0.5, 1.0)} | {"1/K on the class terms": {"loss_weights": {"class": 1 / 3}}}
    return PROFILE | {"critique_components": part | {"variants": models}, "critique_weights": part | {"variants": mixed}}


def test_a_profile_without_larger_images_says_so(monkeypatch, tmp_path):
    names = study("06_component_ablation", "critique", monkeypatch, tmp_path, tiny(), per_class=6, pairs=4)
    found = records("tiny")
    assert set(found) == {"critique-6", "critique-7", "critique-13", "critique-15"}
    assert found["critique-15"]["skipped"] == "this profile trains no baseline on larger images"
    assert names["result"].numbers["large"] == {}
    assert found["critique-6"]["setting"]["steps"] == 2


def test_the_judging_seeds_are_not_those_that_choose(monkeypatch, tmp_path):
    names = study("07_loss_mixing", "critique", monkeypatch, tmp_path, tiny(), per_class=4, pairs=2, choose=1)
    record = records("tiny")["critique-8"]
    seeds = list(dict.fromkeys(run.gan.seed for run in names["E"].runs))
    assert record["setting"]["seeds"] == seeds[1:]
    assert "1/K on the class terms" not in names["result"].numbers["candidates"]
