"""What must be said beside the numbers, worked out from what was measured."""

from collections.abc import Iterator, Mapping, Sequence

from afr_clip.reports.compare.aggregate import PARTLY, MeasuredSetting
from afr_clip.reports.compare.gather import RunResults
from afr_clip.reports.compare.paper import DATASETS
from afr_clip.reports.layout.html import backbone_notices

PROTOCOL = (
    "The paper trains on VisA and scores the other datasets, and scores VisA after training on MVTec AD. Only what was "
    "measured in this way, or by a method that trains nothing, stands in the row of the paper's number and enters a "
    "mean; anything else has a row of its own without either. A mean counts every dataset once, and is taken for the "
    "paper and for what was measured over exactly the datasets its row names; the paper's means are computed from its "
    "own cells. Cells that its source leaves unreadable are empty."
)

SPREAD = (
    "A number with \N{PLUS-MINUS SIGN} is the mean over seeds with its sample standard deviation and, in brackets, the "
    "number of seeds; a mean over datasets has one only where all of them have the same seeds. Differences are "
    'measured minus paper, in percentage points. "-" is undefined, "absent" has no number at all.'
)


def notices_of(settings: Sequence[MeasuredSetting]) -> list[tuple[str, str]]:
    """Say what must be known before a number is read: each with a word of warning, empty for a remark.

    Args:
        settings: What was measured.

    Returns:
        Notices about backbones and about what is not the published test split.
    """
    concerned: dict[tuple[str, str], list[str]] = {}
    for setting in settings:
        for notice in backbone_notices(setting.setting.backbone, setting.setting.module):
            concerned.setdefault(notice, []).append(setting.label)
    notices = [(warning, f"{said} Concerns {'; '.join(labels)}.") for (warning, said), labels in concerned.items()]
    parts = [part for setting in settings for part in _parts(setting)]
    if parts:
        said = (
            f"Numbers marked {PARTLY} stand on another number of images or categories than the published test split "
            f"has, and cannot be held against the paper's: {' '.join(dict.fromkeys(parts))}"
        )
        notices.append(("Not the published test splits.", said))
    return notices


def notes_of(settings: Sequence[MeasuredSetting], runs: Sequence[RunResults]) -> list[str]:
    """Say what explains the tables.

    Args:
        settings: What was measured.
        runs: Where it was.

    Returns:
        Sentences.
    """
    if settings:
        absent = [note for setting in settings for note in _absent(setting)]
        return [PROTOCOL, SPREAD, *absent, *_other_images(settings)]
    reasons = {title: reason for run in runs for title, reason in run.absent.items()}
    return [PROTOCOL, "Nothing has been measured yet: these are the paper's numbers.", *_said("Absent", reasons)]


def _parts(setting: MeasuredSetting) -> Iterator[str]:
    for dataset in setting.datasets:
        yield from (f"{source.title} {source.missing}." for source in dataset.sources if source.missing)


def _absent(setting: MeasuredSetting) -> Iterator[str]:
    scored = {dataset.target.title for dataset in setting.datasets}
    reasons = {title: reason for title, reason in setting.absent.items() if title not in scored}
    yield from _said(f"Absent from {setting.label}", reasons)


def _said(what: str, reasons: Mapping[str, str]) -> list[str]:
    said = "; ".join(f"{title} ({reason.rstrip('.')})" for title, reason in reasons.items())
    return [f"{what}: {said}."] if said else []


def _other_images(settings: Sequence[MeasuredSetting]) -> Iterator[str]:
    for published in DATASETS:
        found = [dataset for setting in settings if (dataset := setting.in_protocol(published)) is not None]
        if len({dataset.target.sha256 for dataset in found}) > 1:
            yield (
                f"The measured numbers of {published.title} stand on different image files: their SHA-256 differ "
                f"between the settings."
            )
