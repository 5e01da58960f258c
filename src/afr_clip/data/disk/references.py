"""Reference images of a target: a few normal images of each category, from the split that is not scored."""

from dataclasses import replace
from random import Random

from afr_clip.data.disk.digest import content_digest
from afr_clip.data.disk.loaded import LoadedDataset
from afr_clip.data.disk.reading import read_samples
from afr_clip.data.errors import DataError
from afr_clip.data.records import AnomalySample

REFERENCE_SPLIT = "train"
"""The split that holds normal images in every public dataset that has one."""


def choose_references(target: LoadedDataset, shots: int, seed: int) -> dict[str, tuple[AnomalySample, ...]]:
    """Choose the reference images of every category of a target.

    Args:
        target: The dataset that is scored.
        shots: Images of each category.
        seed: Decides which; the images of fewer shots are among those of more.

    Returns:
        For each category that is scored, normal images of the train split.

    Raises:
        DataError: If there is no train split, it has too few normal images of a category, or a chosen image is scored
            too.
    """
    normal: dict[str, list[AnomalySample]] = {sample.category: [] for sample in target.samples}
    for sample in read_samples(replace(target.spec, root=target.root, split=REFERENCE_SPLIT, categories=tuple(normal))):
        if not sample.is_anomalous:
            normal[sample.category].append(sample)
    chosen = {}
    for category, samples in normal.items():
        if len(samples) < shots:
            msg = (
                f"Each category of {target.spec.name!r} must have {shots} normal images in the {REFERENCE_SPLIT} split "
                f"to be scored with as many shots, but {category} has {len(samples)} below {target.root}. "
                f"Ask for fewer shots."
            )
            raise DataError(msg)
        # A generator for each category: which others are scored does not change the choice.
        Random(f"{seed} {category}").shuffle(samples)
        chosen[category] = tuple(samples[:shots])
    _refuse_scored(chosen, target)
    return chosen


def _refuse_scored(chosen: dict[str, tuple[AnomalySample, ...]], target: LoadedDataset) -> None:
    samples = [sample for of_category in chosen.values() for sample in of_category]
    scored = set(target.digest.images)
    for sample, sha256 in zip(samples, content_digest(samples).images, strict=True):
        if sha256 in scored:
            msg = (
                f"A reference image must not be scored itself, but {sample.image_path} is also among the images of "
                f"{target.spec.name!r} that are. Remove it from one split."
            )
            raise DataError(msg)
