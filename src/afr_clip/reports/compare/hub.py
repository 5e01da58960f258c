"""Results for a model repository on the Hugging Face Hub: ``.eval_results/*.yaml``.

The format is that of https://huggingface.co/docs/hub/eval-results. The user names the dataset on the Hub that has the
leaderboard; its tasks must be called as our metrics.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import yaml

from afr_clip.files import clean_name, first_few
from afr_clip.reports.compare.values import NO_SEED, ComparisonError, Measured, Series
from afr_clip.reports.layout.grid import COLUMNS
from afr_clip.reports.record.run_folder import write_text

logger = logging.getLogger(__name__)

HUB = "hub"


def check_places(measured: Sequence[Measured], places: Mapping[str, str]) -> None:
    """Raise `ComparisonError` if a dataset has a place on the Hub, but no run scored it."""
    scored = {str(name) for one in measured for key in ("name", "target") for name in one.datasets[key]}
    unknown = [name for name in places if name not in scored]
    if unknown:
        known = first_few(sorted({str(name) for one in measured for name in one.datasets["name"]}))
        msg = f"--hub names {first_few(unknown)}, which no run scored. The runs scored {known or 'nothing'}."
        raise ComparisonError(msg)


def write_eval_results(measured: Measured, places: Mapping[str, str], out: Path) -> None:
    """Write the means of each setting on the datasets of the Hub, into ``OUT/hub/SETTING/.eval_results``.

    Args:
        places: The dataset on the Hub, ``ORG/NAME``, by ``dataset=`` or title.
    """
    datasets = measured.datasets
    for one in measured.series:
        for number, facts in datasets[datasets.series == one.name].iterrows():
            place = places.get(facts["name"], places.get(facts.target))
            if place is None:
                continue
            if facts.is_partial or one.is_random:
                why = "random weights" if one.is_random else "other images than the published test split"
                logger.warning("%s of %s is left out of %s: it comes from %s.", facts.target, one.label, HUB, why)
                continue
            seeds = ", ".join(str(seed) for seed in facts.seeds if seed != NO_SEED)
            notes = f"{one.label}, trained on {facts.trained_on}{f', mean of seeds {seeds}' if seeds else ''}"
            shared = {"notes": notes} | ({"date": date} if (date := _date(one)) else {})
            entries = [
                {"dataset": {"id": place, "task_id": metric}, "value": round(100 * spread.mean, 4), **shared}
                for metric in COLUMNS
                if (spread := measured.spread([int(str(number))], metric)) is not None
            ]
            file = clean_name(f"{facts['name']}-{facts.trained_on}".replace(" ", "_").lower())
            text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)
            write_text(out / HUB / clean_name(one.label) / ".eval_results" / f"{file}.yaml", text)


def _date(series: Series) -> str | None:
    """Return when the last of the runs began, if they tell."""
    found = []
    for run in series.runs:
        try:
            found.append(datetime.strptime(str(run.manifest.get("started")), "%Y-%m-%dT%H:%M:%S%z"))
        except ValueError:
            continue
    return max(found).isoformat() if found else None
