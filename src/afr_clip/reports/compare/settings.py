"""What makes runs comparable: everything that decides their numbers except the seed and the data."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from afr_clip.reports.compare.phrases import (
    BY_DATASET,
    WORDS,
    as_typed,
    describe_choices,
    describe_value,
    has_usual,
    is_usual,
)
from afr_clip.reports.record.identity import WITHOUT_INFLUENCE, flat
from afr_clip.reports.record.provenance import is_published_backbone, method_of, training_of

NOT_OF_A_SETTING = WITHOUT_INFLUENCE | {
    *("task_name", "seed", "dataset", "protocol", "checkpoint", "logger"),
    *("backbone.weights", "backbone.pretrained", "backbone.cnn.weights", "backbone.cnn.pretrained"),
    "module.network.released_weights",
    *("trainer.accelerator", "trainer.deterministic", "trainer.max_epochs"),
}
"""Config keys that name data, seed, places or the machine. Weights count by fingerprint, epochs by how many ran."""

FINGERPRINT = "backbone.fingerprint"
RELEASED = "released weights"
SHOTS = "module.network.shots"


@dataclass(frozen=True)
class Setting:
    """One way to get numbers.

    Attributes:
        method: As the paper calls it, or the name of the run's module.
        backbone: The manifest's entry.
        decides: Every key that decides the numbers, flat.
        given: The ``label`` of its runs; empty without one.
        choices: The file chosen from each config group for its training, as far as it is recorded.
    """

    method: str
    backbone: Mapping[str, Any]
    decides: Mapping[str, Any]
    given: str = ""
    choices: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Equal for runs that may be averaged over their seeds."""
        return json.dumps(self.decides, sort_keys=True)

    @property
    def is_random(self) -> bool:
        """Whether its frozen weights were never trained."""
        return bool(self.backbone["random_weights"])

    @property
    def module(self) -> str:
        """The method's name in the config."""
        return str(self.decides["module.name"])

    @property
    def shots(self) -> int:
        """How many normal images of each category the method saw before it scored."""
        return int(self.decides.get(SHOTS) or 0)

    @property
    def short_label(self) -> str:
        """The method, with its backbone if that is not the one of its published numbers."""
        notes = [] if is_published_backbone(self.backbone, self.module) else [self.backbone["name"]]
        notes += ["random weights"] if self.is_random else []
        return f"{self.method} ({', '.join(notes)})" if notes else self.method


def setting_of(manifest: Mapping[str, Any]) -> Setting:
    """Read the setting of a run.

    An evaluate run has the model of its own config; everything about the training comes from its checkpoint's config.
    """
    config, backbone, checkpoint = manifest["config"], manifest["backbone"], manifest.get("checkpoint")
    trained: Mapping[str, Any] = {}
    if training_of(manifest) is not None:
        trained = config if checkpoint is None else checkpoint.get("config") or {"training": "not recorded"}
    known = flat({**trained, "backbone": config.get("backbone"), "module": config["module"]})
    below = tuple(f"{key}." for key in NOT_OF_A_SETTING)
    decides = {k: value for k, value in known.items() if k not in NOT_OF_A_SETTING and not k.startswith(below)}
    decides[FINGERPRINT] = backbone.get("fingerprint")
    if manifest.get("released_weights") is not None:
        decides[RELEASED] = manifest["released_weights"]["sha256"]
    decides["trainer.precision in scoring"] = _precision(manifest)
    if trained:
        decides["trainer.precision"] = _precision(manifest if checkpoint is None else checkpoint)
        decides["epochs"] = (
            (config.get("trainer") or {}).get("max_epochs") if checkpoint is None else checkpoint["epochs"]
        )
        _forget_dataset(decides, trained, (manifest if checkpoint is None else checkpoint).get("by_dataset") or ())
    given = str(config.get("label") or trained.get("label") or "")
    return Setting(method_of(manifest), backbone, decides, given, (checkpoint or manifest).get("choices") or {})


def _forget_dataset(decides: dict[str, Any], trained: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Let values that a recipe chose by the dataset not tell the trainings of a protocol apart."""
    for key in keys:
        if key in decides:
            decides[key] = BY_DATASET
    epochs = (trained.get("trainer") or {}).get("max_epochs")
    if "trainer.max_epochs" in keys and decides["epochs"] == epochs:  # and not of a training that was stopped
        decides["epochs"] = BY_DATASET


def _precision(manifest: Mapping[str, Any]) -> object:
    """Return the precision that was used; ``auto`` chooses one on each machine."""
    asked = ((manifest.get("config") or {}).get("trainer") or {}).get("precision")
    return (manifest.get("precision") or {}).get("chosen", asked)


def label_settings(settings: Sequence[Setting]) -> dict[str, str]:
    """Label different settings, by their key, so that no two labels are equal.

    A label is the one that was given, or the method, with its backbone where needed; and what else differs where that
    does not tell settings apart.
    """
    alike: dict[str, list[Setting]] = defaultdict(list)
    for setting in settings:
        alike[setting.given or setting.short_label].append(setting)
    labels: dict[str, str] = {}
    for label, group in alike.items():
        labels |= _tell_apart(group, label, ": ")
    seen: Counter[str] = Counter()
    for key, label in labels.items():
        seen[label] += 1
        labels[key] = f"{label}, no. {seen[label]}" if seen[label] > 1 else label
    return labels


def _tell_apart(group: Sequence[Setting], label: str, joint: str) -> dict[str, str]:
    """Add to a label what each of several settings has that is not usual, until all are different."""
    parts: dict[str, list[Setting]] = defaultdict(list)
    for setting in group:
        parts[", ".join(_unusual(setting, group)) if len(group) > 1 else ""].append(setting)
    if len(parts) == 1:
        return {setting.key: label for setting in group}
    labels: dict[str, str] = {}
    for words, part in parts.items():
        labels |= _tell_apart(part, f"{label}{joint}{words}" if words else label, ", " if words else joint)
    return labels


def _unusual(setting: Setting, group: Sequence[Setting], most: int = 4) -> list[str]:
    """List in words where a setting differs from what is usual in a group; long lists are shortened."""
    words, order = [], list(WORDS)
    differing = differing_keys([one.decides for one in group])
    for key in sorted(differing, key=lambda key: (order.index(key) if key in WORDS else len(order), key)):
        own, values = setting.decides.get(key), [as_typed(one.decides.get(key)) for one in group]
        is_common = 2 * values.count(as_typed(own)) > len(values)
        if not is_usual(key, own) and not (is_common and not has_usual(key)):
            words.append(describe_value(key, own))
    chosen = list(describe_choices(setting.choices))
    return words if len(words) <= most else chosen or [*words[: most - 1], f"{len(words) - most + 1} more"]


def run_name(manifest: Mapping[str, Any]) -> str:
    """Name a run without looking at others: its label or what was chosen and typed, its training and its seed.

    Example:
        >>> trained = {"auxiliary": {"name": "visa"}, "seed": 1, "overrides": ["backbone.image_size=320"]}
        >>> backbone = {"name": "pocket", "architecture": "afr-clip-pocket", "random_weights": False}
        >>> config = {"module": {"name": "afr_clip"}, "backbone": {"image_size": 320}}
        >>> run_name({"config": config, "backbone": backbone, "choices": {"ablation": "no_cmfr"}} | trained)
        'AFR-CLIP (pocket): no CMFR, 320 px (visa, seed 1)'
    """
    setting, training = setting_of(manifest), training_of(manifest)
    typed = [override.partition("=")[0] for override in manifest.get("overrides") or ()]
    changed = [describe_value(key, setting.decides[key]) for key in typed if key in WORDS and key in setting.decides]
    words = ", ".join(filter(None, [*describe_choices(setting.choices), *changed]))
    label = setting.given or (f"{setting.short_label}: {words}" if words else setting.short_label)
    return label if training is None else f"{label} ({training['auxiliary']['name']}, seed {training['seed']})"


def differing_keys(all_decide: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the keys in which settings differ, in alphabetical order."""
    keys = sorted({key for decides in all_decide for key in decides})
    differing = [key for key in keys if any(decides.get(key) != all_decide[0].get(key) for decides in all_decide)]
    # Other frozen weights follow from other keys, so they are named only where nothing else differs.
    return [key for key in differing if key != FINGERPRINT] or differing


def name_keys(decides: Mapping[str, Any], keys: Sequence[str], most: int = 3) -> str:
    """Write at most so many keys with their values, each by its last two parts, and the number of the others."""
    named = [f"{'.'.join(key.split('.')[-2:])}={json.dumps(decides.get(key))}" for key in keys[:most]]
    more = [f"{len(keys) - most} more"] if len(keys) > most else []
    return ", ".join([*named, *more]).replace('"', "")
