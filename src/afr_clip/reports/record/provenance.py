"""Where the numbers of a run come from, as its manifest tells."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from afr_clip.files import counted

METHODS = {
    "winclip": "WinCLIP",
    "april_gan": "APRIL-GAN",
    "anomaly_clip": "AnomalyCLIP",
    "ada_clip": "AdaCLIP",
    "afr_clip": "AFR-CLIP",
}
"""Methods of tables 1 and 2 in their order: the paper's name by ``module.name``."""

TITLES = METHODS | {
    "clip_similarity": "CLIP similarity",
    "coop": "CoOp",
    "cocoop": "CoCoOp",
    "dense_clip": "DenseCLIP",
    "clip_ad": "CLIP-AD",
    "af_clip": "AF-CLIP",
    "aa_clip": "AA-CLIP",
    "adapt_clip": "AdaptCLIP",
    "uni_adet": "UniADet",
    "visual_ad": "VisualAD",
}
"""What people call a method, by ``module.name``."""


PAPER_ARCHITECTURE = "ViT-L-14-336-quickgelu"
PUBLISHED_ARCHITECTURES = {
    **dict.fromkeys(("winclip", "clip_ad"), "ViT-B-16-plus-240"),
    **dict.fromkeys(("april_gan", "ada_clip", "aa_clip"), "ViT-L-14-336"),
}
"""The backbones of the published numbers of methods that do not use AFR-CLIP's, by module."""


def method_of(manifest: Mapping[str, Any]) -> str:
    """Name the method of a run as its authors do, or as its module is called."""
    name = str(manifest["config"]["module"]["name"])
    return TITLES.get(name, name)


def training_of(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the entries about the training, ``None`` for a method that trains nothing.

    An evaluate run did not train, so its checkpoint has them: ``auxiliary``, ``seed`` and more.
    """
    return manifest if manifest.get("auxiliary") is not None else manifest.get("checkpoint")


def few_shot(shots: int) -> str:
    """Describe few-shot scoring in words, for tables and pages."""
    return f"{counted(shots, 'normal image')} of each category (few-shot)"


def is_published_backbone(backbone: Mapping[str, Any], module: str) -> bool:
    """Whether the manifest's backbone has the architecture of a module's published numbers."""
    return bool(backbone["architecture"] == PUBLISHED_ARCHITECTURES.get(module, PAPER_ARCHITECTURE))


def backbone_notices(backbone: Mapping[str, Any], module: str) -> list[tuple[str, str]]:
    """Return what a reader must know about a backbone before a number.

    Args:
        module: The method's name in the config.

    Returns:
        Sentences, each with a word of warning that is empty for a mere remark; none for the backbone of the method's
        published numbers with its weights.
    """
    name, notices = f"{backbone['name']} ({backbone['architecture']})", []
    if backbone["random_weights"]:
        note = (
            f"The backbone {name} was never trained. The numbers and pictures show that the machinery works and "
            "say nothing about the method."
        )
        notices.append(("Random weights.", note))
    if not is_published_backbone(backbone, module):
        published = PUBLISHED_ARCHITECTURES.get(module, PAPER_ARCHITECTURE)
        note = (
            f"These numbers were measured with the backbone {name}; the published ones were measured with {published}."
        )
        notices.append(("", note))
    return notices


def list_facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List where the numbers of a run come from, as terms and plain text."""
    backbone, machine, checkpoint = manifest["backbone"], manifest["machine"], manifest.get("checkpoint")
    weights = " with random weights" if backbone["random_weights"] else ""
    facts = [
        ("Method", method_of(manifest)),
        ("Command", shlex.join(["afr-clip", manifest["command"], *manifest["overrides"]])),
        ("Started", str(manifest["started"])),
        ("Commit", _commit(manifest.get("commit"))),
        ("Seed", _seed(manifest)),
        (
            "Backbone",
            f"{backbone['name']} ({backbone['architecture']}){weights}, SHA-256 {backbone['fingerprint'][:12]}",
        ),
    ]
    trained = training_of(manifest)
    facts += [] if trained is None else [("Trained on", _dataset(trained["auxiliary"]))]
    if checkpoint is not None:
        of = f"seed {checkpoint['seed']}, epochs {checkpoint['epochs']}, commit {_commit(checkpoint.get('commit'))}"
        facts.append(("Checkpoint", f"{checkpoint['path']}: {of}"))
    released = manifest.get("released_weights")
    if released is not None:
        facts.append(("Released weights", f"{released['path']}, SHA-256 {released['sha256'][:12]}"))
    facts += [("Scored", _dataset(target)) for target in manifest["targets"].values()]
    facts.append(("Selection", _selection(manifest, trained)))
    sha256 = (manifest.get("scored_with") or {}).get("checkpoint_sha256")
    facts += [] if sha256 is None else [("Trained weights", f"SHA-256 {str(sha256)[:12]}")]
    facts.append(("Precision", _precision(manifest)))
    versions = {"afr_clip": manifest["afr_clip"], "python": manifest["python"], **manifest["packages"]}
    hardware = ", ".join([machine["processor"], f"{machine['threads']} threads", *(machine["gpus"] or ["no GPU"])])
    return [
        *facts,
        ("Machine", f"{hardware}; {machine['system']}"),
        ("Time", _time([manifest])),
        ("Versions", ", ".join(f"{name} {version or 'unknown'}" for name, version in versions.items())),
    ]


_OF_ONE_RUN = ("Method", "Command", "Started", "Checkpoint")
"""Facts that differ between all runs, and are listed elsewhere."""


def checklist(manifests: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """List what somebody needs who wants the numbers of several runs again, with the number of runs each fact is of."""
    answers: dict[str, Counter[str]] = {}
    for manifest in manifests:
        for term, fact in dict.fromkeys(list_facts(manifest)):
            answers.setdefault(term, Counter())[fact] += 1
    facts = []
    for term, found in answers.items():
        if term == "Time":
            facts.append((term, f"{_time(manifests)} in all"))
        elif term in _OF_ONE_RUN:
            continue
        elif len(found) > 1 and max(found.values()) == 1 < len(manifests):
            facts.append((term, "; ".join(found)))
        else:
            of = {num: "" if num == len(manifests) else f" ({num} of {len(manifests)} runs)" for num in found.values()}
            facts += [(term, f"{fact}{of[num]}") for fact, num in found.items()]
    return facts


def _selection(manifest: Mapping[str, Any], trained: Mapping[str, Any] | None) -> str:
    if trained is None:
        return "nothing was trained, so there was no epoch to choose"
    checkpoint = manifest.get("checkpoint")
    planned = ((trained.get("config") or {}).get("trainer") or {}).get("max_epochs")
    epochs = planned if checkpoint is None else checkpoint["epochs"]
    if planned is not None and epochs < planned:
        return f"the weights after epoch {epochs} of {planned}; how this epoch was chosen is not recorded"
    return f"the weights after the last epoch ({epochs}); none was chosen by a score on a target"


def _seed(manifest: Mapping[str, Any]) -> str:
    """Name the seed of the training, and that of scoring where it is another."""
    seeds = {"training": (training_of(manifest) or manifest)["seed"], "scoring": manifest["seed"]}
    if len(set(seeds.values())) == 1:
        return str(manifest["seed"])
    return ", ".join(f"{seed} ({of})" for of, seed in seeds.items())


def _precision(manifest: Mapping[str, Any]) -> str:
    asked = (manifest["config"].get("trainer") or {}).get("precision", "not recorded")
    return str((manifest.get("precision") or {}).get("chosen", asked))


def _time(manifests: Sequence[Mapping[str, Any]]) -> str:
    training = sum(manifest.get("seconds_training") or 0 for manifest in manifests)
    scoring = sum(sum((manifest.get("seconds_scoring") or {}).values()) for manifest in manifests)
    parts = [("training", training), ("scoring", scoring)]
    spans = [f"{what} {timedelta(seconds=round(min(seconds, 1e9)))}" for what, seconds in parts if seconds]
    return ", ".join(spans) or "not recorded"


def _dataset(facts: Mapping[str, Any]) -> str:
    counts = f"{facts['num_normal']} normal and {facts['num_anomalous']} anomalous images"
    return f"{facts['name']} ({', '.join(facts['categories'])}): {counts}, SHA-256 {facts['sha256'][:12]}"


def _commit(commit: Mapping[str, Any] | None) -> str:
    if commit is None:
        return "unknown, not run from a checkout"
    return f"{commit['hash']}{', with uncommitted changes' if commit['dirty'] else ''}"
