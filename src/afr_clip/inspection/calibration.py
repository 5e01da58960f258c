"""From the scores of good parts to a threshold, and from a threshold to a decision (split conformal calibration).

The threshold is the k-th smallest of n good scores, with k = ceil((n + 1)(1 - budget)), and a part is anomalous if it
scores above. If the next good part is exchangeable with these, it does so with a probability of at most the budget,
whatever the distribution of scores. That holds on average over sets of n good parts; for one set, the rate of false
alarms is a Beta variable around the budget, and the band of `Decision.undecided` covers that.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from afr_clip.files import counted, shown
from afr_clip.inspection.settings import Rule, num_needed, share
from afr_clip.metrics.thresholds import MAX_F1, image_thresholds
from afr_clip.reports.record.run_folder import write_json
from afr_clip.reports.record.schema import RecordError, read_record, require
from afr_clip.settings import DecideBy, refuse

CALIBRATION = "calibration.json"

VERSION = 1

BY_BUDGET = Rule()

Scores = Sequence[float] | NDArray[np.floating]

TYPICAL = 0.1
"""The calibrated score of the median good part, if the threshold keeps a budget of false alarms."""


class Decision(str, Enum):
    """What is decided about a part; each is equal to its word: ``decision == "anomalous"``.

    A part is undecided if its score is so close to the threshold that this many good parts cannot settle the decision.
    ``undecided=`` turns this on.
    """

    normal = "normal"
    anomalous = "anomalous"
    undecided = "undecided"

    def __str__(self) -> str:
        """Return the word."""
        return self.value


class CalibrationError(ValueError):
    """A calibration that cannot be made or read, or that does not belong to a detector."""


@dataclass(frozen=True)
class Level:
    """The threshold of one kind of score, with the good scores.

    Attributes:
        threshold: A score above it is anomalous, one equal to it is not.
        undecided_from: A score above it, up to `undecided_to`, is undecided. Without a band both are the threshold.
        unit: The distance from the median good score to the one that keeps the budget of false alarms.
        good_scores: In ascending order.
    """

    threshold: float
    undecided_from: float
    undecided_to: float
    unit: float
    good_scores: tuple[float, ...]

    def decide(self, score: float) -> Decision:
        """Decide by this score alone."""
        if score > self.undecided_to:
            return Decision.anomalous
        return Decision.undecided if score > self.undecided_from else Decision.normal

    def calibrated(self, score: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Put scores on a scale with 0.5 at the threshold.

        A unit below the threshold, where a typical good part is, is 0.1, and a unit above is 0.9.
        """
        slope = math.log((1 - TYPICAL) / TYPICAL) / self.unit
        # The logistic function, written so that it cannot overflow.
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * slope * (score - self.threshold)))


@dataclass(frozen=True)
class Calibration:
    """A calibration of a detector: its thresholds for one kind of part, as ``calibration.json`` holds them.

    Attributes:
        false_alarms: The budget.
        num_bad: Labelled bad parts that were given.
        threshold_from: What the thresholds keep.
        image: Of image scores.
        region: Of the maxima of maps.
        map_low: Down to this value a region extends, once it exceeds the threshold somewhere. It is the median of the
            good maps' maxima: half of all good parts never reach it.
        identity: The detector: hash of its weights, category, image size, settings.
        photographs: SHA-256 of the good photographs.
    """

    version: int
    false_alarms: float
    num_good: int
    num_bad: int
    threshold_from: Literal["false_alarms", "escape", "best_f1"]
    escape: float | None
    undecided: float | None
    decide_by: DecideBy
    image: Level
    region: Level
    map_low: float
    identity: dict[str, Any]
    photographs: str

    @property
    def map_high(self) -> float:
        """What a map must exceed somewhere within a region."""
        return self.region.threshold

    def decide(self, image_score: float, region_peak: float) -> Decision:
        """Decide about a part by its image score, the maximum of its map, or either."""
        found = {level.decide(score) for level, score in self._deciding(image_score, region_peak)}
        return next(one for one in (Decision.anomalous, Decision.undecided, Decision.normal) if one in found)

    def calibrated(self, image_score: float) -> float:
        """Put an image score on the scale that means the same on every picture: 0.5 at the threshold, see `Level`."""
        return float(self.image.calibrated(np.array(image_score)))

    def calibrated_map(self, anomaly_map: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Put a map, or its maximum, on that scale."""
        return self.region.calibrated(anomaly_map)

    def calibrated_part(self, image_score: float, region_peak: float) -> float:
        """Return the calibrated score that decides about a part: above 0.5 if it is over the threshold."""
        deciding = self._deciding(image_score, region_peak)
        return max(float(level.calibrated(np.array(score))) for level, score in deciding)

    def _deciding(self, image_score: float, region_peak: float) -> list[tuple[Level, float]]:
        both = {DecideBy.image: (self.image, image_score), DecideBy.region: (self.region, region_peak)}
        return list(both.values()) if self.decide_by is DecideBy.either else [both[self.decide_by]]

    def guarantee(self) -> str:
        """State in a sentence what the threshold promises, and what it does not."""
        if self.threshold_from == "best_f1":
            return (
                f"The threshold has the highest F1 on {self.num_good} good and {self.num_bad} bad parts; it bounds "
                "neither false alarms nor misses on others."
            )
        kind, of, num, budget = (
            ("bad", "missed", self.num_bad, self.escape)
            if self.threshold_from == "escape"
            else ("good", "reported", self.num_good, self.false_alarms)
        )
        return (
            f"The next {kind} part is {of} with a probability of at most {100 * float(budget or 0):g} %, if it comes "
            f"from the same production and camera as these {num}. The share among many parts varies around that."
        )

    def require(self, identity: Mapping[str, Any]) -> None:
        """Refuse to be used with another detector.

        Raises:
            CalibrationError: If it is another one; the sentence names the first thing that differs.
        """
        here = _plain(identity)
        for key in dict.fromkeys((*self.identity, *here)):
            if self.identity.get(key) != here.get(key):
                difference = _difference(key, self.identity.get(key), here.get(key))
                msg = f"{difference} Use the detector that was calibrated, or calibrate this one."
                raise CalibrationError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `calibration_of` reads them again."""
        return asdict(self) | {"decide_by": self.decide_by.value}

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        write_json(path, self.to_dict())


def _difference(key: str, then: object, now: object) -> str:
    if key not in ("roi", "ignore"):
        then, now = (shown(json.dumps(value, ensure_ascii=False)) for value in (then, now))
        return f"The calibration belongs to another detector: {key} was {then} and is {now}."
    # What identifies a mask is a hash, which tells a reader nothing.
    if then is None:
        return f"The calibration was made without {key}, and this run has one."
    if now is None:
        return f"The calibration was made with {key}, and this run has none."
    return f"The calibration was made with another {key}."


@dataclass
class _Version:
    """A calibration of a detector: its version."""

    version: int


def read_calibration(path: Path) -> Calibration:
    """Read ``calibration.json``, or the one in a folder.

    Raises:
        CalibrationError: If it is missing, unreadable, or not a calibration that this version can use.
    """
    try:
        return _read(path / CALIBRATION if path.is_dir() else path)
    except FileNotFoundError:
        fault = f"it holds no {CALIBRATION}" if path.is_dir() else "it does not exist"
    except OSError as error:
        fault = error.strerror or str(error)
    except RecordError as error:
        fault = error.fault
    msg = (
        f"{shown(path)} is not a calibration written by afr-clip calibrate: {fault}. Write calibration=FILE; "
        f"afr-clip calibrate writes one."
    )
    raise CalibrationError(msg)


def _read(path: Path) -> Calibration:
    version = read_record(path, _Version)["version"]
    require(path, _Version, iter([f"version must be {VERSION}, got {version}"] if version != VERSION else []))
    return calibration_of(read_record(path, Calibration), path)


def calibration_of(content: Mapping[str, Any], path: Path) -> Calibration:
    """Read plain values.

    Raises:
        RecordError: If they contradict each other; the file is named.
    """
    known = {one.name: content[one.name] for one in fields(Calibration)} | {"decide_by": DecideBy(content["decide_by"])}
    for name in ("image", "region"):
        numbers = {one.name: content[name][one.name] for one in fields(Level)}
        known[name] = Level(**numbers | {"good_scores": tuple(map(float, numbers["good_scores"]))})
    read = Calibration(**known)
    require(path, Calibration, iter(_contradictions(read)))
    return read


def _contradictions(read: Calibration) -> list[str]:
    faults = []
    for name, level in (("image", read.image), ("region", read.region)):
        scores = np.array(level.good_scores)
        if len(scores) != read.num_good:
            faults.append(f"{name}.good_scores must have num_good={read.num_good} entries, got {len(scores)}")
        elif len(scores) < 1 or (np.diff(scores) < 0).any():
            faults.append(f"{name}.good_scores must be in ascending order")
        if not level.undecided_from <= level.threshold <= level.undecided_to:
            faults.append(f"{name}.threshold must lie between undecided_from and undecided_to, got {level.threshold}")
        if level.unit <= 0:
            faults.append(f"{name}.unit must be positive, got {level.unit}")
    if read.map_low > read.map_high:
        faults.append(f"map_low must not exceed region.threshold={read.map_high}, got {read.map_low}")
    return faults


def calibrate(
    image_scores: Scores,
    map_maxima: Scores,
    false_alarms: float,
    identity: Mapping[str, Any],
    *,
    rule: Rule = BY_BUDGET,
    bad: tuple[Scores, Scores] = ((), ()),
    photographs: str = "",
) -> Calibration:
    """Find thresholds from scored good parts.

    Args:
        map_maxima: Of the maps of the same parts.
        false_alarms: The budget: the share of good parts that may be reported.
        bad: Image scores and map maxima of parts that are known to be bad.
        photographs: SHA-256 of the good photographs.

    Raises:
        CalibrationError: If there are too few parts for the budget, or the rule needs bad parts and there are none.

    Example:
        >>> made = calibrate([0.1] * 90 + [0.2] * 9, [0.3] * 99, 0.01, {"category": "nut"})
        >>> made.image.threshold, made.decide(0.2, 0.3).value, made.decide(0.21, 0.3).value, made.calibrated(0.2)
        (0.2, 'normal', 'anomalous', 0.5)
    """
    good_images, good_maxima = _checked("good", image_scores, map_maxima)
    bad_images, bad_maxima = _checked("bad", *bad)
    refuse(share("false_alarms", false_alarms))
    check_numbers(len(good_images), len(bad_images), false_alarms, rule)
    budget = rule.budget(false_alarms)
    region = _level(good_maxima, bad_maxima, budget, rule)
    return Calibration(
        VERSION,
        float(false_alarms),
        len(good_images),
        len(bad_images),
        "best_f1" if rule.best_f1 else "false_alarms" if rule.escape is None else "escape",
        rule.escape,
        rule.undecided,
        rule.decide_by,
        _level(good_images, bad_images, budget, rule),
        region,
        min(float(np.median(good_maxima)), region.threshold),
        _plain(identity),
        photographs,
    )


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity as JSON gives it back."""
    return dict(json.loads(json.dumps(dict(identity))))


def _checked(kind: str, image_scores: Scores, map_maxima: Scores) -> tuple[np.ndarray, np.ndarray]:
    images, maxima = (np.sort(np.asarray(scores, dtype=np.float64)) for scores in (image_scores, map_maxima))
    if images.ndim != 1 or images.shape != maxima.shape:
        msg = f"Each {kind} part has one image score and one maximum, got shapes {images.shape} and {maxima.shape}."
        raise CalibrationError(msg)
    if not (np.isfinite(images).all() and np.isfinite(maxima).all()):
        msg = f"Scores of {kind} parts must be finite numbers, got NaN or infinity. Look for it in the detector."
        raise CalibrationError(msg)
    return images, maxima


def check_numbers(num_good: int, num_bad: int, false_alarms: float, rule: Rule) -> None:
    """Check whether there are enough parts.

    Raises:
        CalibrationError: If not.
    """
    is_half = rule.decide_by is DecideBy.either and rule.escape is None
    kind, num, budget, key = ("good", num_good, rule.budget(false_alarms), "false_alarms")
    if rule.escape is not None:
        kind, num, budget, key = ("bad", num_bad, Fraction(str(rule.escape)), "escape")
    if not rule.best_f1 and num < (needed := num_needed(budget)):
        each = " for each of the two scores" if is_half else ""
        smallest = (2 if is_half else 1) * math.ceil(1e4 / (num + 1)) / 1e4
        or_write = f", or write {key}={smallest:g}" if smallest < 1 else ""
        msg = (
            f"A budget of {100 * float(budget):g} %{each} needs at least {counted(needed, f'{kind} part')}, got {num}. "
            f"Add {needed - num} more{or_write}."
        )
        raise CalibrationError(msg)
    if not num_good or (rule.best_f1 and not num_bad):
        msg = f"Thresholds need good parts, and best_f1 bad ones too, got {num_good} good and {num_bad} bad. Add some."
        raise CalibrationError(msg)


def _level(good: np.ndarray, bad: np.ndarray, budget: Fraction, rule: Rule) -> Level:
    """Find the threshold of one kind of score; both arrays are in ascending order."""
    num = len(good)
    place = min(num - math.floor((num + 1) * budget), num - 1)  # counted from 0
    kept = float(good[place])
    # If good scores hardly differ, any other spread will do, and 1 if they do not differ at all.
    unit = next((step for step in (kept - float(np.median(good)), kept - float(good[0])) if step > 0), 1.0)
    threshold, low, high = kept, place, place
    if rule.escape is not None:
        allowed = math.floor((len(bad) + 1) * Fraction(str(rule.escape)))
        threshold = math.nextafter(float(bad[allowed - 1]), -math.inf)  # that part itself is reported
    elif rule.best_f1:
        scores, truth = np.concatenate([good, bad]), np.arange(num + len(bad)) >= num
        best = next(one for one in image_thresholds(None, scores, truth) if one.rule == MAX_F1)
        threshold = math.nextafter(best.threshold, -math.inf)
    elif rule.undecided is not None:
        low, high = _band(num, place, float(budget), rule.undecided)
    band = (float(good[low]), float(good[high])) if rule.undecided is not None else (threshold, threshold)
    return Level(threshold, *band, unit, tuple(good.tolist()))


def _band(num: int, place: int, budget: float, confidence: float) -> tuple[int, int]:
    """Return the places of the good scores between which the exact threshold lies with this confidence.

    The number of good scores below the exact threshold is binomial, whatever their distribution. Where there are too
    few good scores for an end of the band, the lowest or highest one stands in.
    """
    from scipy.stats import binom  # noqa: PLC0415 - a second, and only calibration needs it

    low, high = binom.ppf([(1 - confidence) / 2, (1 + confidence) / 2], num, 1 - budget).astype(int).tolist()
    return min(max(low - 1, 0), place), max(min(high, num - 1), place)
