"""Profiles as they are in the checkout, and what holds for their parts when the image set is replaced or lies elsewhere."""
from pathlib import Path

import pytest
import yaml

from acgan import config
from acgan.config import UserError, home, own_images, profile, profile_names

NAMES = [path.stem for path in sorted((Path(__file__).resolve().parents[1] / "nbs" / "profiles").glob("*.yaml"))]


def test_the_profiles_of_the_checkout():
    assert {"quick", "gpu", "paper", "cifar10-cpu"} <= set(NAMES) == set(profile_names())


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_trains_what_can_be_trained(name):
    from acgan.costs import members_in, set_size
    from acgan.ensemble import part_of, parts_in
    from acgan.models import find_spec
    settings = profile(name)
    parts = parts_in(settings)
    assert {"model", "splits"} <= set(parts) and settings["label"] == name and "name" in settings["classifier"]
    for part in parts:
        p = part_of(settings, part)
        about = settings["images"] | p["images"]
        find_spec(about["resolution"])
        members = members_in(settings, part)
        assert len({key for _, _, key in members}) == len(members), f"{part}: a member twice"
        assert isinstance(p["steps"], int) and all(isinstance(k, int) and 0 < k < p["steps"] for k in p["keep_checkpoints"]), f"{part}: {p['keep']}"
        assert all(max(m.classes or (0,)) < set_size(about)[0] for _, m, _ in members)
    order = (settings.get("plan") or {}).get("order", [])
    assert set(order) <= set(parts) and len(order) == len(set(order))


def test_a_replaced_set_takes_the_place_of_all_others(tmp_path):
    gpu = profile("gpu")
    own = {name: value["images"] for name, value in gpu.items() if isinstance(value, dict) and "steps" in value and "images" in value}
    assert {one["name"] for one in own.values() if "name" in one} >= {"imagenette", "tiny-imagenet"}
    other = profile("gpu", dataset="blossoms")
    assert other["label"] == "gpu-blossoms"
    for name, images in own.items():
        assert other[name]["images"] == {key: value for key, value in images.items() if key == "resolution"}


def test_one_folder_holds_several_sets(tmp_path):
    for folder in ("cifar10/train", "imagenette2-160/train", "tiny-imagenet-200/train", "imagenet/val", "notes"):
        (tmp_path / folder).mkdir(parents=True)
    gpu = profile("gpu", data_root=str(tmp_path))
    roots = {value["images"]["name"]: value["images"]["root"] for value in gpu.values() if isinstance(value, dict) and "name" in value.get("images", {})}
    assert roots["imagenette"] == str(tmp_path / "imagenette2-160") and roots["tiny-imagenet"] == str(tmp_path / "tiny-imagenet-200")
    assert gpu["images"]["root"] == str(tmp_path), "the profile's own set is found below the folder by data.load"
    base = {"name": "cifar10", "root": str(tmp_path)}
    assert own_images({"name": "imagenet"}, base) == {"name": "imagenet", "root": None}, "no train/ there, and imagenette is another set"
    assert own_images({"name": "imagenet", "root": "x"}, base)["root"] == "x" and own_images({"name": "imagenette"}, {"name": "cifar10"})["root"] is None
    (tmp_path / "cifar-10-batches-py").mkdir()
    batches = own_images({"name": "cifar10"}, {"name": "imagenet", "root": str(tmp_path)})
    assert batches["root"] == str(tmp_path / "cifar-10-batches-py")


def test_extends_and_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("ACGAN_HOME", str(tmp_path))
    folder = tmp_path / "nbs" / "profiles"
    folder.mkdir(parents=True)
    (folder / "a.yaml").write_text(yaml.safe_dump({"images": {"name": "blossoms"}, "model": {"steps": 5, "gan": {"width": 0.1}}}))
    (folder / "b.yaml").write_text(yaml.safe_dump({"extends": "a", "model": {"steps": 9}}))
    assert config.profile("b")["model"] == {"steps": 9, "gan": {"width": 0.1}}
    with pytest.raises(UserError, match="unknown profile 'c': choose one of a, b"):
        config.profile("c")
    monkeypatch.setenv("ACGAN_HOME", str(tmp_path / "none"))
    with pytest.raises(UserError, match="run inside a checkout"):
        config.profile("a")


def test_home_is_found_from_below(monkeypatch):
    root = home()
    monkeypatch.delenv("ACGAN_HOME", raising=False)
    monkeypatch.chdir(root / "nbs" / "profiles")
    assert home() == root
