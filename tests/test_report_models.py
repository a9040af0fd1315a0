"""The profiles' parts of the CIFAR-10 report are its models: they differ from them in size and length alone."""
import pytest

from acgan.config import profile
from acgan.data import blossoms
from acgan.ensemble import named_members, part_of
from acgan.report_presets import REPORT_MODELS, report_differences, report_member
from acgan.training import parent_of, run_config

PARTS = {"Model 1": "tay_models", "Model 2": "tay_model_2", "Model 3": "tay_model_3", "Model 4": "tay_model_4"}
SMALLER = {"width", "width_d", "batch", "lr_g", "lr_d", "continues"}


def configs(name, model):
    """{reading: [RunConfig]} of a profile's part."""
    images = blossoms(10, 1, REPORT_MODELS[model].resolution)
    found = {}
    for who, gan in named_members(profile(name), PARTS[model], images.classes).items():
        found.setdefault(who.split(",")[0], []).append(run_config(gan, images))
    return found


@pytest.mark.parametrize("name", ["quick", "cifar10-cpu", "cifar10", "gpu", "paper"])
@pytest.mark.parametrize("model", PARTS)
def test_a_profile_trains_the_reports_models(name, model):
    part = part_of(profile(name), PARTS[model])
    assert part["images"].get("enlarge", 1) == REPORT_MODELS[model].enlarge
    for reading, some in configs(name, model).items():
        for config in some:
            assert set(report_differences(config.gan, model, reading)) <= SMALLER
            if name == "paper":
                assert not report_differences(config.gan, model, reading) and part["steps"] == 500 * REPORT_MODELS[model].epochs


@pytest.mark.parametrize("name", ["quick", "cifar10-cpu", "cifar10", "gpu", "paper"])
@pytest.mark.parametrize("model", ["Model 2", "Model 4"])
def test_a_continued_model_finds_its_parent_in_the_part_before(name, model):
    before = REPORT_MODELS[model].after
    parents = {config.id for config in configs(name, before)["code"]}
    assert {parent_of(config).id for config in configs(name, model)["code"]} == parents
    assert {config.gan.continues["step"] for config in configs(name, model)["code"]} == {part_of(profile(name), PARTS[before])["steps"]}


def test_the_head_to_head_differs_in_the_reading_alone():
    for model in REPORT_MODELS:
        text, code = (vars(report_member(model, reading)) for reading in ("text", "code"))
        assert {key for key in text if text[key] != code[key]} == {"objective", "class_loss", "noise_dist", "noise_when", "init_std", "reuse_fakes",
                                                                   "sampling_bn"}
