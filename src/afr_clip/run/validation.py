"""What every method must do, checked on small random towers: for ``afr-clip validate`` and this project's own tests."""

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from afr_clip.clip.load import Towers
from afr_clip.inspection.export import (
    LARGEST_DIFFERENCE,
    NEEDED,
    ExportError,
    adversarial_pictures,
    largest_differences,
    write_model,
)
from afr_clip.inspection.exported import FORMAT, ExportedScanner, read_exported
from afr_clip.inspection.scan import Scanning
from afr_clip.inspection.scanner import Scanner
from afr_clip.losses.total import AnomalyLoss
from afr_clip.models.interface import StagedNetwork, TappedNetwork
from afr_clip.models.method_settings import ModuleSettings
from afr_clip.models.prediction import AnomalyPrediction
from afr_clip.settings import ExportFormat

NAMES = ("metal nut", "screw", "metal nut", "bottle")
"""Categories of the four images of noise that methods are tried on."""

LARGEST_IN_BATCH = 2e-5
"""Largest allowed difference of a score from that of the same image alone: sums run in another order."""

PHOTOGRAPH = (48, 97)
"""Height and width of the photograph that is not square."""

TIMED = 5


class FaultError(ValueError):
    """A method does not do what every method must."""


class CannotCheckError(ValueError):
    """A check does not apply to a method, or needs a package that is not installed."""


@dataclass(frozen=True)
class Subject:
    """A method on towers, as it is checked."""

    module: ModuleSettings
    towers: Towers

    def network(self) -> Any:  # noqa: ANN401 - an AnomalyNetwork that is an nn.Module
        """Build the network, each time with the same weights."""
        torch.manual_seed(0)
        return self.module.network.build(self.towers)

    def training(self) -> Iterator[Any]:
        """Yield a network in training mode at each of its first epochs, so that every stage has its turn."""
        network = self.network().train()
        for epoch in range(self.module.network.fewest_epochs):
            if isinstance(network, StagedNetwork):
                network.begin_epoch(epoch)
            yield network

    @property
    def size(self) -> int:
        """Side of the network's input in pixels."""
        return self.towers.backbone.image_size

    def image(self) -> Tensor:
        """Return four normalised images of noise."""
        return torch.randn(len(NAMES), 3, self.size, self.size, generator=torch.Generator().manual_seed(0))


def score_for_training(
    network: Callable[..., AnomalyPrediction], module: ModuleSettings, image: Tensor, category: Sequence[str]
) -> AnomalyPrediction:
    """Score images as a training does, each next to another one if the method asks for that."""
    reference = (image.flip(0),) if module.network.needs_reference else ()
    return network(image, category, *reference)


Check = Callable[[Subject], str]
"""Returns what it measured in words, or raises a `FaultError` or `CannotCheckError`."""


@dataclass(frozen=True)
class Outcome:
    """The result of one check.

    Attributes:
        check: Its name.
        state: ``passed``, ``failed`` or ``not checked``.
        detail: What was measured, what is wrong, or why it was not checked.
    """

    check: str
    state: str
    detail: str


def validate(subject: Subject) -> list[Outcome]:
    """Run every check on a method."""
    return [_outcome(name, check, subject) for name, check in CHECKS.items()]


def _outcome(name: str, check: Check, subject: Subject) -> Outcome:
    try:
        return Outcome(name, "passed", check(subject))
    except CannotCheckError as reason:
        return Outcome(name, "not checked", str(reason))
    except FaultError as fault:
        return Outcome(name, "failed", str(fault))
    except Exception as error:  # any exception is a fault of the method
        return Outcome(name, "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def check_settings(subject: Subject) -> str:
    """The fields of the settings are the network's arguments."""
    settings = subject.module.network
    keys = {field.name for field in fields(settings)}
    arguments = inspect.signature(type(subject.network())).parameters.keys() - {"towers"}
    if keys != arguments:
        msg = f"the settings and the network's arguments differ in {', '.join(sorted(keys ^ arguments))}"
        raise FaultError(msg)
    return f"{len(keys)} keys"


def check_scores(subject: Subject) -> str:
    """One image gives float32 probabilities of the right shapes, and each image needs a name."""
    network, image, size = subject.network().eval(), subject.image(), subject.size
    with torch.no_grad():
        prediction = network(image[:1], NAMES[:1])
    _require_probabilities(prediction)
    _require(prediction.anomaly_map.shape == (1, size, size), f"the map is {tuple(prediction.anomaly_map.shape)}")
    _require(prediction.image_score.shape == (1,), f"the image score is {tuple(prediction.image_score.shape)}")
    sides = {tuple(maps.shape[2:]) for maps in (prediction.layer_maps, prediction.trained_maps)}
    known = {(size, size), subject.towers.backbone.grid_size}
    _require(sides <= known, f"layer_maps and trained_maps are of sizes {sides}, but must be of {known}")
    try:
        network(image, NAMES[:1])
    except ValueError:
        return f"map {size} x {size}"
    msg = "four images with one name are accepted; call require_one_name_each"
    raise FaultError(msg)


def check_batches(subject: Subject) -> str:
    """An image has the scores in a batch that it has alone."""
    network, image = subject.network().eval(), subject.image()
    with torch.no_grad():
        together = network(image, NAMES)
        alone = [network(image[i : i + 1], [name]) for i, name in enumerate(NAMES)]
    largest = 0.0
    for name in ("anomaly_map", "image_score", "trained_maps"):
        own = torch.cat([getattr(one, name) for one in alone])
        largest = max(largest, float((own - getattr(together, name)).abs().max()))
    _require(
        largest <= LARGEST_IN_BATCH,
        f"a score depends on the other images of its batch: it differs by {largest:.1e}, but at most "
        f"{LARGEST_IN_BATCH:.0e} is allowed",
    )
    return f"largest difference {largest:.1e}"


def check_photographs(subject: Subject) -> str:
    """A photograph that is not square gets a finite map of its own size."""
    height, width = PHOTOGRAPH
    pixels = np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8)
    (scan,) = _scanner(subject).scan([("photograph", pixels)], NAMES[0])
    found = scan.enlarged()
    _require(found.shape == PHOTOGRAPH, f"its map is {found.shape}, but the photograph is {PHOTOGRAPH}")
    return f"{height} x {width}, highest {scan.highest:.3f}"


def check_gradients(subject: Subject) -> str:
    """A loss reaches exactly the parameters that the network names as trainable."""
    names: set[str] = set()
    reached: set[str] = set()
    for network in subject.training():
        names = network.trainable_parameter_names()
        _require(
            bool(names) == subject.module.network.trains,
            f"the settings have trains = {subject.module.network.trains}, but {len(names)} parameters are trainable",
        )
        prediction = score_for_training(network, subject.module, subject.image(), NAMES)
        _require_probabilities(prediction)
        if not names:
            _require(not prediction.trained_maps.requires_grad, "nothing is trained, but the map has a gradient")
            return "nothing is trained"
        _loss(prediction).backward()
        reached |= {name for name, p in network.named_parameters() if p.grad is not None and (p.grad != 0).any()}
    for which, differing in (("without a gradient", names - reached), ("not named, but reached", reached - names)):
        _require(not differing, f"{which}: {', '.join(sorted(differing)[:3])}")
    return f"{len(names)} tensors"


def check_towers(subject: Subject) -> str:
    """A training step leaves every frozen weight as it was, bit for bit."""
    before, names = subject.towers.fingerprint(), set[str]()
    for network in subject.training():
        names = network.trainable_parameter_names()
        prediction = score_for_training(network, subject.module, subject.image(), NAMES)
        if names:
            optimizer = torch.optim.Adam([p for name, p in network.named_parameters() if name in names], lr=0.1)
            _loss(prediction).backward()
            optimizer.step()
    _require(subject.towers.fingerprint() == before, "a step changed the frozen towers")
    return "bit-identical after a step" if names else "bit-identical"


def check_precision(subject: Subject) -> str:
    """Scores are float32 probabilities where the towers run in bfloat16."""
    network = subject.network().eval()
    with torch.no_grad():
        own = network(subject.image(), NAMES)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(subject.image(), NAMES)
    _require_probabilities(half)
    return f"bfloat16 moves image scores by at most {float((half.image_score - own.image_score).abs().max()):.1e}"


def check_taps(subject: Subject) -> str:
    """Where the settings promise frozen taps, they have no graph and are scored as in one pass."""
    if not subject.module.network.has_frozen_taps:
        msg = "has_frozen_taps is False, so data.feature_cache=true is refused"
        raise CannotCheckError(msg)
    network, image = subject.network().eval(), subject.image()
    _require(isinstance(network, TappedNetwork), "tapped_from, tapped and score are missing")
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):  # type: ignore[func-returns-value]
        tapped = network.tapped(image)
    has_graph = bool(kept) or any(one.grad_fn is not None for one in tapped)
    _require(not has_graph, "tapped builds a graph, so something that learns changes it")
    _require(all(len(one) == len(image) for one in tapped), "each tensor of tapped needs one row per image")
    scored, whole = network.score(tapped, NAMES), network(image, NAMES)
    same = torch.equal(scored.trained_maps, whole.trained_maps) and torch.equal(scored.image_score, whole.image_score)
    _require(same, "score(tapped(image)) differs from the forward pass")
    return f"{len(tapped)} tensors, {sum(one[0].numel() for one in tapped):,} numbers an image"


def check_export(subject: Subject) -> str:
    """The network as an ONNX file gives the same scores."""
    missing = [name for name in NEEDED[ExportFormat.onnx] if find_spec(name) is None]
    if missing:
        msg = f"needs packages that are not installed: pip install {' '.join(missing)}"
        raise CannotCheckError(msg)
    scanner, category = _scanner(subject), NAMES[0]
    facts: dict[str, Any] = {"config": {}, "backbone": {}, "calibration": None, "categories": [category]}
    facts |= {"format": FORMAT, "image_size": subject.size, "identity": scanner.identity(category)}
    facts["reads_category"] = subject.module.network.reads_category
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        try:
            write_model(scanner, [category], path, facts)
        except ExportError as error:
            raise FaultError(str(error)) from error
        exported = ExportedScanner(read_exported(path), scanner.scanning)
        of_scores, of_maps = largest_differences(exported, scanner, adversarial_pictures(subject.size), category)
    largest = max([*of_scores.values(), *of_maps.values()], key=lambda value: np.nan_to_num(value, nan=np.inf))
    _require(
        largest <= LARGEST_DIFFERENCE,
        f"the exported network's scores differ by {largest:.1e}, but at most {LARGEST_DIFFERENCE:.0e} is allowed",
    )
    return f"ONNX, largest difference {largest:.1e} on {len(of_maps)} pictures"


def measure_cost(subject: Subject) -> str:
    """Count what is trained, and time a forward pass next to the image tower alone."""
    network, image = subject.network().eval(), subject.image()
    names = network.trainable_parameter_names()
    trained = sum(p.numel() for name, p in network.named_parameters() if name in names)
    whole, tower = (
        _milliseconds(lambda: network(image, NAMES)),
        _milliseconds(lambda: subject.towers.backbone.tap(image)),
    )
    per_image = f"{whole / len(image):.1f} ms an image ({whole / tower:.1f} times the image tower)"
    return f"{trained:,} trained parameters, {per_image} on {subject.towers.settings.name}"


CHECKS: Mapping[str, Check] = {
    "settings are the network's arguments": check_settings,
    "one image is scored at its size": check_scores,
    "batches do not change scores": check_batches,
    "photographs that are not square": check_photographs,
    "gradients reach what is trained": check_gradients,
    "frozen towers": check_towers,
    "half precision": check_precision,
    "frozen taps": check_taps,
    "export": check_export,
    "cost": measure_cost,
}


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise FaultError(fault)


def _require_probabilities(prediction: AnomalyPrediction) -> None:
    for field in fields(prediction):
        values = getattr(prediction, field.name)
        if values is None or field.name in ("patch_tokens", "prototypes"):
            continue
        _require(values.dtype == torch.float32, f"{field.name} is {values.dtype}, but scores must be float32")
        is_probability = bool(((values >= 0) & (values <= 1)).all())  # false for NaN
        _require(is_probability, f"{field.name} must lie in [0, 1], got values outside or NaN")


def _loss(prediction: AnomalyPrediction) -> Tensor:
    """Compute the default loss; every second image is anomalous in its upper left corner."""
    num, height, width = prediction.anomaly_map.shape
    is_anomalous = torch.arange(num) % 2 == 1
    mask = torch.zeros(num, height, width, dtype=torch.bool)
    mask[is_anomalous, : height // 4, : width // 3] = True
    return AnomalyLoss()(prediction.trained_maps, prediction.trained_scores, mask, is_anomalous).total


def _scanner(subject: Subject) -> Scanner:
    return Scanner(
        subject.network(), subject.towers, Scanning("cpu", "32-true", None, 0.25, len(NAMES)), {"weights": "random"}
    )


@torch.inference_mode()
def _milliseconds(work: Callable[[], object]) -> float:
    work()  # the first time takes longer
    seconds = []
    for _ in range(TIMED):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return 1000 * sorted(seconds)[TIMED // 2]
