"""Names of networks are those that timm.create_model takes; old ones become today's."""

from collections.abc import Callable

import pytest
import timm
from timm.models import get_deprecated_models

from distracted.errors import ConfigError
from distracted.models.backbone import current_name, find_backbone
from distracted.schema import RunConfig
from distracted.training.resolve import resolve

OLD = get_deprecated_models()


@pytest.mark.parametrize("prefix", ["", "timm/", "hf_hub:timm/", "hf-hub:timm/", "HF-hub:timm/"])
def test_old_names_are_those_that_timm_maps(prefix: str) -> None:
    assert len(OLD) > 200
    for old, new in OLD.items():
        backbone = find_backbone(prefix + old)
        assert backbone.name == new or backbone.name == f"{new}_in1k"  # timm has lost two tags (sam)
        assert backbone == find_backbone(backbone.name) and timm.is_model(backbone.name)


def test_todays_names_stay_as_they_are() -> None:
    """The hashes of stored runs cover the names."""
    names = timm.list_models(include_tags=True) + timm.list_models()
    assert len(names) > 2000
    assert all(current_name(name) == name == current_name(f"hf-hub:timm/{name}") for name in names)


def test_an_old_name_is_the_same_run(configure: Callable[..., RunConfig]) -> None:
    hashes = {
        resolve(configure(f"model.backbone={name}"), num_folds=3).config.hash
        for name in ("tf_efficientnet_b0_ns", "timm/tf_efficientnet_b0_ns", "tf_efficientnet_b0.ns_jft_in1k")
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50.a9_in1k", r"no weights 'a9_in1k' of resnet50; there are: a1_in1k, .*, tv_in1k$"),
        ("timm/vgg16.", r"no weights '' of vgg16; there are: tv_in1k$"),
        ("tf_efficientnet_b0_ns.x", r"no weights 'x' of tf_efficientnet_b0; .*ns_jft_in1k"),
        ("ResNet-50", r"no network 'ResNet-50'; nearest: resnet50"),
        ("hf-hub:timm/resnet5O.a1_in1k", r"no network 'resnet5O\.a1_in1k'; nearest: resnet50"),
        ("hf-hub:somebody/resnet50", r"expected a network of timm; .* model\.weights"),
        ("local-dir:/tmp/x", r"expected a network of timm; .* model\.weights"),
    ],
)
def test_a_wrong_name_or_tag_lists_the_right_ones(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_backbone(name)
