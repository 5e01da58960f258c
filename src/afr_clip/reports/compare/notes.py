"""What a reader of the numbers must know, derived from what was measured."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pandas as pd

from afr_clip.files import counted
from afr_clip.reports.compare.ablation import AblationTable, Block
from afr_clip.reports.compare.paired import NUM_RESAMPLES, Paired, same_images
from afr_clip.reports.compare.paper import ABLATED, DATASETS
from afr_clip.reports.compare.settings import Setting
from afr_clip.reports.compare.values import NO_SEED, Measured, RecordedRun, Series, absent_from
from afr_clip.reports.layout.grid import PARTLY
from afr_clip.reports.record.provenance import backbone_notices
from afr_clip.reports.record.results import MEAN_ROW

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

PAPER = f"The paper's tables 3 to 6 are about {' after training on '.join(ABLATED)}."

INTERVALS = (
    "A number with \N{PLUS-MINUS SIGN} is the mean over seeds with its sample standard deviation and, in brackets, the "
    "number of seeds; one without is of one seed. \N{GREEK CAPITAL LETTER DELTA} reference is the setting minus the "
    "reference with the same seed in the same category, in percentage points, averaged over these pairs. Its brackets "
    f"hold a 95 % bootstrap interval: percentiles of {NUM_RESAMPLES:,} means, for each of which seeds and categories "
    "are drawn again, with replacement and independently of each other. An axis with one entry is not drawn, and then "
    "the interval says nothing about it. As far as seeds go, an interval over two or three of them is too narrow."
)

Notice = tuple[str, str]
"""A word of warning, empty for a remark, and a sentence."""


def notices(measured: Measured) -> list[Notice]:
    """Return the notes for readers of tables 1 and 2."""
    datasets = measured.datasets
    return _notices(
        (one.setting, one.label, datasets[datasets.series == one.name])
        for one in measured.series
        if one.setting is not None
    )


def ablation_notices(tables: Sequence[AblationTable]) -> list[Notice]:
    """Return the notes for readers of an ablation."""
    groups = []
    for table in tables:
        by_label: dict[str, list[Series]] = {}
        for one in table.measured.series:
            if one.setting is not None:
                by_label.setdefault(one.setting.short_label, []).append(one)
        datasets = table.measured.datasets
        for of_label in by_label.values():
            of_series = datasets[datasets.series.isin([one.name for one in of_label])]
            groups.append((of_label[0].setting, table.spec.title, of_series))
    same = [
        f"{table.spec.title.split(':', maxsplit=1)[0]}: {one.label}"
        for table in tables
        for one in table.measured.series
        if table.differs_in(one) == "nothing"
    ]
    note = f"The runs recorded the same config as their reference: {'; '.join(same)}. Look at their overrides."
    known = ((setting, title, datasets) for setting, title, datasets in groups if setting is not None)
    return [*_notices(known), *([("Settings that differ in nothing.", note)] if same else [])]


def _notices(groups: Iterable[tuple[Setting, str, pd.DataFrame]]) -> list[Notice]:
    """Note which settings differ from the published numbers in backbone, and which scores use other test splits."""
    concerned: dict[Notice, list[str]] = {}
    parts: dict[str, None] = {}
    for setting, label, datasets in groups:
        for notice in backbone_notices(setting.backbone, setting.module):
            concerned.setdefault(notice, []).append(label)
        columns = ["target", "target_lacks", "auxiliary", "auxiliary_lacks"]
        for target, target_lacks, auxiliary, auxiliary_lacks in datasets[columns].itertuples(index=False, name=None):
            for title, lacks in ((target, target_lacks), (auxiliary, auxiliary_lacks)):
                parts |= {f"{title} {lacks}.": None} if lacks else {}
    found = [(warning, f"{note} Concerns {'; '.join(labels)}.") for (warning, note), labels in concerned.items()]
    if parts:
        note = (
            f"Numbers marked {PARTLY} stand on another number of images or categories than the published test split "
            f"has, and cannot be held against the paper's: {' '.join(parts)}"
        )
        found.append(("Not the published test splits.", note))
    return found


def notes(measured: Measured, runs: Sequence[RecordedRun]) -> list[str]:
    """Explain tables 1 and 2: the protocol, what is absent and why, and which numbers stand on different images."""
    if not measured.series:
        nothing = "Nothing has been measured yet: these are the paper's numbers."
        return [PROTOCOL, nothing, *_reasons("Absent", absent_from(runs))]
    datasets, found = measured.datasets, [PROTOCOL, SPREAD]
    lacking: dict[tuple[tuple[str, str], ...], list[str]] = {}  # most settings lack the same datasets
    for one in measured.series:
        scored = set(datasets.target[datasets.series == one.name])
        reasons = tuple((title, reason) for title, reason in one.absent.items() if title not in scored)
        lacking.setdefault(reasons, []).append(one.label)
    for reasons, labels in lacking.items():
        brief = {title: reason.split(". ")[0] for title, reason in reasons}  # what to do about it is in the log
        found += _reasons(f"Absent from {'; '.join(labels)}", brief)
    for published in DATASETS:
        numbers = [number for (_, title), number in measured.in_protocol.items() if title == published.title]
        if datasets.target_sha256[numbers].nunique() > 1:
            found.append(
                f"The measured numbers of {published.title} stand on different image files: their SHA-256 differ "
                f"between the settings."
            )
    return found


def _reasons(what: str, reasons: Mapping[str, str]) -> list[str]:
    named = "; ".join(f"{title} ({reason.rstrip('.')})" for title, reason in reasons.items())
    return [f"{what}: {named}."] if named else []


def ablation_notes(table: AblationTable) -> list[str]:
    """Explain one ablation: what is missing and why, what was left out of the differences, what is undefined."""
    if not table.measured.series:
        about = " after training on ".join(ABLATED)
        return [f"Nothing has been measured yet: these are the paper's numbers of {about}."]
    without = {
        f"{one.label}, seed {cell.seed}": table.missing[cell]
        for one in table.measured.series
        for cell in table.cells(one.name)
        if cell in table.missing
    }
    found = _reasons("Without numbers", without)
    never = [one.label for one in table.measured.series if not table.cells(one.name)]
    found += [f"Not run: {'; '.join(never)}."] if never else []
    absent: dict[str, str] = {}
    for one in table.measured.series:
        scored = {target for series, (target, _) in table.datasets if series == one.name}
        absent |= {title: reason for title, reason in one.absent.items() if title not in scored}
    found += _reasons("Absent", absent)
    name = table.experiment.reference
    if not any(series == name for series, _ in table.datasets):
        found.append(f"The reference, {name}, has no numbers, so there is no difference to it.")
    for block in table.blocks:
        found += [f"{' after training on '.join(block)}: {note}" for note in _of_block(table, block)]
    return found


def _of_block(table: AblationTable, block: Block) -> Iterator[str]:
    series = [one for one in table.measured.series if (one.name, block) in table.datasets]
    if any(not table.is_comparable(one, block) for one in series):
        yield "the paper's numbers in brackets are not comparable and are there for orientation only."
    pairs = [
        (one, metric, paired)
        for one in table.measured.series
        for metric in table.spec.metrics
        if (paired := table.paired.get((one.name, block, metric))) is not None
    ]
    lacking = _merged(
        table,
        (
            (_LACKING[len(paired.seeds) > 1, len(paired.categories) > 1], one, metric)
            for one, metric, paired in pairs
            if len(paired.seeds) == 1 or len(paired.categories) == 1
        ),
    )
    if lacking:
        yield f"not every interval is over seeds and categories: {lacking}."
    left_out = _merged(table, ((_counted(paired), one, metric) for one, metric, paired in pairs if paired.num_left_out))
    if left_out:
        yield f"incomplete pairs of seed and category are left out of the difference: {left_out}."
    undefined = _merged(
        table,
        (
            (f"in {', '.join(names)}", one, metric)
            for one in series
            for metric in table.spec.metrics
            if (names := _undefined(table.measured, table.datasets[one.name, block], metric))
        ),
    )
    if undefined:
        yield f"undefined, and so in no mean and no difference: {undefined}."
    reference = table.datasets.get((table.experiment.reference, block))
    other = [
        one.label
        for one in series
        if reference is not None and not same_images(table.measured, table.datasets[one.name, block], reference)
    ]
    if other:
        yield f"not on the images of the reference, so without a difference to it: {', '.join(other)}."


_LACKING = {
    (False, True): "with one common seed, over categories only, which says nothing about other seeds",
    (True, False): "with one category, over seeds only, which says nothing about other categories",
    (False, False): "with one common seed and one category, without an interval",
}
"""What to say of an interval, by whether there are several seeds and several categories."""


def _undefined(measured: Measured, number: int, metric: str) -> list[str]:
    """Name the categories in which a metric is undefined with some seed."""
    cells = measured.cells.loc[number].xs(metric, level="metric").drop(MEAN_ROW)
    return list(cells.category[cells["mean"].isna()])


def _counted(paired: Paired) -> str:
    seeds = "" if paired.seeds == (NO_SEED,) else f" with seed {', '.join(map(str, paired.seeds))}"
    num = paired.num_left_out + len(paired.seeds) * len(paired.categories)
    left = counted(len(paired.categories), "category", "categories")
    return f"{paired.num_left_out} of {num}, which leaves {left}{seeds}"


def _merged(table: AblationTable, facts: Iterable[tuple[str, Series, str]]) -> str:
    """State once what holds for several settings and metrics."""
    metrics: dict[tuple[str, str], list[str]] = {}
    for fact, one, metric in facts:
        metrics.setdefault((fact, one.name), []).append(table.spec.metrics[metric])
    labels = {one.name: one.label for one in table.measured.series}
    settings: dict[tuple[str, str], list[str]] = {}
    for (fact, name), names in metrics.items():
        settings.setdefault((" and ".join(names), fact), []).append(labels[name])
    return "; ".join(f"{names} of {', '.join(of)} {fact}" for (names, fact), of in settings.items())
