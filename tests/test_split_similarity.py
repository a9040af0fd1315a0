"""Splits by likeness: planted kinds of images are found, whatever the order, and a plan without images counts the same members."""
import pytest
import torch

from acgan.data import ImageSet, class_features, class_splits
from acgan.config import profile
from acgan.ensemble import named_members

TWO = {"label": "t", "profile": "t", "pairs": {"steps": 1, "classes_per_member": 2, "n_seeds": 2}}


def planted(order):
    """Four classes of noise, two of them reddish and two bluish; `order`: which colour each class has."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (40, 3, 8, 8), generator=rng, dtype=torch.uint8)
    for k, channel in enumerate(order):
        images[10 * k:10 * k + 10, channel] += 130
    return ImageSet(images, torch.arange(4).repeat_interleave(10), list("abcd"), "planted", "train", str(order))


@pytest.mark.parametrize("order", [(0, 0, 2, 2), (0, 2, 0, 2), (2, 0, 0, 2)])
def test_alike_classes_share_a_member_and_unlike_ones_do(order):
    images = planted(order)
    for how, kinds in (("similar", 1), ("dissimilar", 2)):
        settings = TWO | {"pairs": TWO["pairs"] | {"split_strategy": how}}
        members = named_members(settings, "pairs", images.classes, images)
        assert all(len({order[k] for k in m.classes}) == kinds for m in members.values())


def test_features_do_not_depend_on_the_order_of_images():
    images = planted((0, 2, 0, 2))
    mixed = images.take(torch.randperm(40, generator=torch.Generator().manual_seed(1)).tolist())
    assert torch.allclose(class_features(images), class_features(mixed))


@pytest.mark.parametrize("how", ["similar", "dissimilar"])
def test_a_plan_without_images_has_as_many_members_of_the_same_sizes(how):
    images = planted((0, 2, 0, 2))
    settings = TWO | {"pairs": TWO["pairs"] | {"split_strategy": how}}
    seen, planned = (named_members(settings, "pairs", images.classes, some) for some in (images, None))
    assert list(seen) == list(planned) and [m.seed for m in seen.values()] == [m.seed for m in planned.values()]
    assert [len(m.classes) for m in seen.values()] == [len(m.classes) for m in planned.values()]


@pytest.mark.parametrize("name", ["quick", "cifar10-cpu", "cifar10", "gpu", "paper"])
def test_the_four_kinds_of_split_differ_in_the_strategy_alone(name):
    parts = {kind: profile(name)[f"split_{kind}"] for kind in ("contiguous", "random", "similar", "dissimilar")}
    assert parts["similar"] | {"split_strategy": "dissimilar"} == parts["dissimilar"]
    for key in ("gan", "classes_per_member") + (("steps",) if name != "gpu" else ()):
        assert len({str(part[key]) for part in parts.values()}) == 1, key


def test_groups_cover_every_class_once():
    groups = class_splits(list("abcd"), 2, "dissimilar", features=class_features(planted((0, 2, 0, 2))))
    assert sorted(k for group in groups for k in group) == [0, 1, 2, 3]
