"""Each check finds the fault that it is there for."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from afr_clip.models.method_settings import CategoryNames, MethodSettings, ModuleSettings
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.scoring import upsample_map
from afr_clip.run.validation import CHECKS, Outcome, Subject, validate


class Probe(nn.Module):
    """A small method that can be spoiled in one place."""

    def __init__(self, towers, spoiled: str = "") -> None:
        super().__init__()
        self.backbone, self.spoiled = towers.backbone, spoiled
        self.probe = nn.Linear(self.backbone.token_dim, 1)
        self.idle = nn.Parameter(torch.zeros(1)) if spoiled == "idle" else None

    def trainable_parameter_names(self):
        known = {"probe.weight", "probe.bias"}
        if self.spoiled == "untrained":
            return set()
        if self.spoiled == "unnamed":
            return {"probe.weight"}
        if self.spoiled == "tower":
            weight = next(iter(dict(self.backbone.clip.visual.named_parameters())))
            self.backbone.clip.visual.get_parameter(weight).requires_grad_(True)
            return {*known, f"backbone.clip.visual.{weight}"}
        return known | ({"idle"} if self.idle is not None else set())

    @property
    def tapped_from(self) -> str:
        return "the last block"

    def tapped(self, image):
        return self.backbone.tap(image, layers=(self.backbone.depth,))

    def score(self, tapped, category):
        (tokens,) = tapped
        tokens = tokens.float() if self.spoiled != "half" else tokens.to(torch.bfloat16).float()
        logits = self.probe(tokens)[..., 0].float()
        if self.spoiled == "batch":
            logits = logits - logits.mean()
        probability = logits if self.spoiled == "logits" else logits.sigmoid()
        if self.spoiled == "half":
            probability = probability.bfloat16()
        grid = probability[:, None, 1:].unflatten(-1, self.backbone.grid_size)
        size = (self.backbone.image_size, self.backbone.image_size)
        anomaly_map = upsample_map(grid[:, 0], size)
        if self.spoiled == "nan":
            anomaly_map = anomaly_map / 0.0 * 0.0
        return AnomalyPrediction(anomaly_map, probability[:, 0], grid, trained_maps=anomaly_map[:, None])

    def forward(self, image, category):
        if self.spoiled != "names":
            require_one_name_each(image, category)
        prediction = self.score(self.tapped(image), category)
        if self.spoiled == "forward":
            return replace(prediction, image_score=prediction.image_score / 2)
        return prediction


@dataclass
class ProbeSettings(MethodSettings):
    needs_text: ClassVar[bool] = False

    spoiled: str

    def build(self, towers):
        return Probe(towers, self.spoiled)

    @property
    def has_frozen_taps(self) -> bool:
        return True


@dataclass
class OtherSettings(ProbeSettings):
    unknown: int = 0


def subject(towers, spoiled: str = "") -> Subject:
    kind = OtherSettings if spoiled == "keys" else ProbeSettings
    return Subject(ModuleSettings("probe", CategoryNames.words, kind(spoiled)), towers)


FAST = [name for name in CHECKS if name != "export"]


def test_a_sound_method_passes(towers):
    outcomes = {name: CHECKS[name](subject(towers)) for name in FAST}
    assert outcomes["gradients reach what is trained"] == "2 tensors"
    assert f"{towers.backbone.token_dim + 1} trained parameters" in outcomes["cost"]


@pytest.mark.parametrize(
    ("spoiled", "check", "fault"),
    [
        ("keys", "settings are the network's arguments", "differ in unknown"),
        ("names", "one image is scored at its size", "four images with one name are accepted"),
        ("logits", "one image is scored at its size", r"must lie in \[0, 1\]"),
        ("nan", "one image is scored at its size", "or NaN"),
        ("batch", "batches do not change scores", "depends on the other images of its batch"),
        ("half", "half precision", "torch.bfloat16, but scores must be float32"),
        ("untrained", "gradients reach what is trained", "trains = True, but 0 parameters"),
        ("unnamed", "gradients reach what is trained", "not named, but reached: probe.bias"),
        ("idle", "gradients reach what is trained", "without a gradient: idle"),
        ("forward", "frozen taps", "differs from the forward pass"),
    ],
)
def test_a_fault_is_found_and_named(towers, spoiled, check, fault):
    with pytest.raises(ValueError, match=fault):
        CHECKS[check](subject(towers, spoiled))


def test_a_step_that_changes_a_tower_is_found():
    from helpers.tiny import tiny_towers  # noqa: PLC0415 - these towers are spoiled

    with pytest.raises(ValueError, match="a step changed the frozen towers"):
        CHECKS["frozen towers"](subject(tiny_towers(), "tower"))


def test_what_a_method_raises_is_a_failed_check(towers, monkeypatch):
    monkeypatch.setattr("afr_clip.run.validation.CHECKS", {name: CHECKS[name] for name in FAST})
    monkeypatch.setattr(Probe, "score", lambda *_: {}["weight"])
    found = validate(subject(towers))
    assert Outcome("cost", "failed", "KeyError: 'weight'") in found
    assert Outcome("settings are the network's arguments", "passed", "1 keys") in found
