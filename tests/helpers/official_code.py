"""Run the authors' own programs on drawn towers and pictures, and record what goes through them.

This file contains none of their code: their repositories are in the folder that ``AFR_CLIP_TEST_OFFICIAL`` names. If a
program needs a GPU, a download or a package that does not affect the numbers, the run replaces it from outside; the
README next to the golden files lists these changes.

``PYTHONPATH=src:tests AFR_CLIP_TEST_OFFICIAL=DIR python -m helpers.official_code`` writes the golden files.
"""

import contextlib
import functools
import gzip
import importlib
import importlib.util
import io
import json
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import open_clip
import packaging.version
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from torch import Tensor, nn

from helpers.naive_ada_clip import naive_clusters
from helpers.official_differences import (
    AF_CLIP_NORM,
    SIZE,
    VISUAL_AD_NORM,
    VISUAL_AD_NORMS,
    WINDOW_SIZE,
    Record,
    hard_logits,
    thinned,
)
from helpers.pro_cases import pro_cases
from helpers.repeatable import (
    ARCHITECTURES,
    NUM_PICTURES,
    learned_state,
    masks,
    normalised,
    pictures,
    small_tower_state,
    tower_state,
)

VARIABLE = "AFR_CLIP_TEST_OFFICIAL"
COMMITS = {
    "AnomalyCLIP": "45ed4dd35c05797d854294b5e8d585c545920089",
    "AdaCLIP": "e27ee32bf19be149795c8c8972d4c3c88cd5a496",
    "VAND-APRIL-GAN": "f13b8a634e04f9fde8fa03db125b25af5695d8e1",
    "Accurate-WinCLIP-pytorch": "eef4f8cce6a80eddfa07415b503c22c6c3427351",
    "anomalib": "b7233686172e3485bfbe01272a8cd7a7e4576986",
    "AF-CLIP": "bb7edec4128a76f29cb573cd3002538bf250b2fe",
    "VisualAD": "8479132d641456345019aed1c8bb6b2d11941068",
    "AA-CLIP": "53db195f230442aa118c246876c94ba1c76139cc",
    "AdaptCLIP": "354d9e3332ec5348b3d8e4439111d34f8e94c0a9",
}
TAPS = [6, 12, 18, 24]
LABELS = torch.arange(NUM_PICTURES) % 2
NOT_NEEDED = ("thop", "tabulate", "cv2", "skimage", "tensorboard", "seaborn", "pandas", "ipdb", "tifffile")
"""Packages that the programs import for counts, tables and pictures."""


def official_folder(name: str) -> Path | None:
    """Return the folder of a repository, or ``None`` if it is not there."""
    folder = Path(os.environ.get(VARIABLE, "")) / name
    return folder if os.environ.get(VARIABLE) and folder.is_dir() else None


@contextlib.contextmanager
def official_modules(name: str, *modules: str) -> Iterator[list[ModuleType]]:
    """Import modules of a repository under their own names, such as ``loss``, and unload them at the end."""
    folder = official_folder(name)
    assert folder is not None, f"{name} must be in the folder named by {VARIABLE}"
    own = {path.stem for path in folder.iterdir()}
    before = {key: module for key, module in sys.modules.items() if key.split(".")[0] in own}
    stubs = {name: MagicMock() for name in NOT_NEEDED if find_spec(name) is None}
    stubs["pkg_resources"] = SimpleNamespace(packaging=packaging)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    state = random.getstate()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        warnings.simplefilter("ignore")
        for key in before:
            del sys.modules[key]
        sys.modules.update(stubs)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.setattr(sys, "dont_write_bytecode", True)
        _stay_on_cpu(patch)
        _read_own_vocabulary(patch)
        _take_empty_masks(patch)
        try:
            yield [importlib.import_module(module) for module in modules]
        finally:
            for key in [key for key in sys.modules if key.split(".")[0] in own or key in stubs]:
                del sys.modules[key]
            sys.modules.update(before)
            root.handlers[:] = handlers
            root.setLevel(level)
            random.setstate(state)


def _stay_on_cpu(patch: pytest.MonkeyPatch) -> None:
    to = torch.Tensor.to
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(torch.Tensor, "cuda", lambda self, *_: self)
    patch.setattr(nn.Module, "cuda", lambda self, *_: self)
    patch.setattr(torch.Tensor, "to", lambda self, *a, **k: self if a[:1] == ("cuda",) else to(self, *a, **k))
    # Without autocast, the backward pass needs tensors that the programs divide in place.
    patch.setattr(torch.Tensor, "__itruediv__", torch.Tensor.__truediv__)


def _read_own_vocabulary(patch: pytest.MonkeyPatch) -> None:
    """AdaCLIP's copy of CLIP's vocabulary is a pointer of Git LFS; all copies are the same file."""
    vocabulary, unpacked = "bpe_simple_vocab_16e6.txt.gz", gzip.open
    own = Path(open_clip.__file__).parent / vocabulary
    patch.setattr(gzip, "open", lambda file, *a: unpacked(own if str(file).endswith(vocabulary) else file, *a))


def _take_empty_masks(patch: pytest.MonkeyPatch) -> None:
    """The programs make a normal image's mask of float zeros, which newer Pillow refuses."""
    fromarray = Image.fromarray
    patch.setattr(Image, "fromarray", lambda array, mode=None: fromarray(array.astype(np.uint8) if mode else array))


@contextlib.contextmanager
def without_half_rounding() -> Iterator[None]:
    """Insert learned tokens as they are, where the published programs round them to half precision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "half", lambda self: self)
        yield


def write_meta_tree(root: Path, category: str, size: int, references: Sequence[str] = ()) -> Path:
    """Write the pictures as the authors' own converters would: PNG files and a ``meta.json``.

    The first picture is the one training image of each category in ``references``.
    """
    entries: list[dict[str, Any]] = []
    for index, (picture, mask) in enumerate(zip(pictures(size), masks(size), strict=True)):
        kind = "bad" if mask.any() else "good"
        paths = {"img_path": f"{category}/test/{kind}/{index:03d}.png", "mask_path": ""}
        contents = {"img_path": picture}
        if mask.any():
            paths["mask_path"] = f"{category}/ground_truth/{kind}/{index:03d}_mask.png"
            contents["mask_path"] = mask.astype(np.uint8) * 255
        for key, content in contents.items():
            (root / paths[key]).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(root / paths[key])
        entries.append(paths | {"cls_name": category, "specie_name": kind, "anomaly": int(mask.any())})
    train = {name: [entries[0] | {"cls_name": name}] for name in references}
    (root / "meta.json").write_text(json.dumps({"train": train, "test": {category: entries}}))
    return root


class Recorded:
    """Call a function and keep copies of what it was given and what it returned."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function, self.given, self.returned = function, [], []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.given.append([_copy(value) for value in args])
        result = self.function(*args, **kwargs)
        self.returned.append(_copy(result))
        return result


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return [_copy(one) for one in value] if isinstance(value, list | tuple) else value


def record_method(patch: pytest.MonkeyPatch, owner: type, name: str) -> list[tuple[list[Any], Any]]:
    """Keep ``(arguments, result)`` of every call of a method."""
    calls: list[tuple[list[Any], Any]] = []
    original = getattr(owner, name)

    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = [_copy(value) for value in args]
        result = original(self, *args, **kwargs)
        calls.append((given, _copy(result)))
        return result

    patch.setattr(owner, name, recorded)
    return calls


def record_step(patch: pytest.MonkeyPatch, kind: str, named: Callable[[], dict[str, Tensor]], into: Record) -> None:
    """Keep gradients before and parameters after the one step of the next optimiser of a kind."""

    class Step(getattr(torch.optim, kind)):  # type: ignore[misc]
        def step(self, *args: Any) -> None:
            trained = {name: value for name, value in named().items() if value.grad is not None}
            into.update({f"grad.{name}": value.grad.clone() for name, value in trained.items()})
            super().step(*args)
            into.update({f"stepped.{name}": value.detach().clone() for name, value in trained.items()})

    patch.setattr(torch.optim, kind, Step)


def fill(parameters: Mapping[str, Tensor]) -> None:
    """Fill learned parameters with large values, drawn by name."""
    drawn = learned_state({name: value.shape for name, value in parameters.items()})
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(drawn[name])


def in_order(image: Tensor) -> list[int]:
    """Return which row of a shuffled batch shows each picture."""
    distance = (normalised(image.shape[-1])[:, None] - image[None]).abs().amax(dim=(2, 3, 4))
    assert distance.min(dim=1).values.max() < 1e-5
    return distance.argmin(dim=1).tolist()


# Each function below returns what one program read and computed; ``half`` keeps its rounding of prompts.


def anomaly_clip(folder: Path, *, half: bool = False) -> Record:  # noqa: PLR0915 - one run from start to end
    """Train AnomalyCLIP for one step, save, load and score, all by its own programs."""
    root, record = write_meta_tree(folder / "colon", "colon", SIZE), {}
    rounding = contextlib.nullcontext() if half else without_half_rounding()
    modules = ("AnomalyCLIP_lib", "AnomalyCLIP_lib.build_model", "AnomalyCLIP_lib.AnomalyCLIP", "train", "test")
    with official_modules("AnomalyCLIP", *modules) as found, rounding:
        library, building, network, training, testing = found
        with pytest.MonkeyPatch.context() as patch:
            state = tower_state("ViT-known-quickgelu")
            design: dict[str, Any] = {}

            def load(name: str, device: str, design_details: dict[str, int]) -> tuple[nn.Module, None]:
                design.update(design_details)
                return building.build_model(name, dict(state), design_details), None

            patch.setattr(library, "load", load)
            learners: list[nn.Module] = []
            for program in (training, testing):

                def learner(
                    *args: Any, made: Callable[..., nn.Module] = program.AnomalyCLIP_PromptLearner
                ) -> nn.Module:
                    learners.append(made(*args))
                    fill(dict(learners[-1].named_parameters()))
                    return learners[-1]

                patch.setattr(program, "AnomalyCLIP_PromptLearner", learner)
            encoded = record_method(patch, network.AnomalyCLIP, "encode_image")
            sentences = record_method(patch, network.AnomalyCLIP, "encode_text_learn")
            focal = record_method(patch, training.FocalLoss, "forward")
            dice = record_method(patch, training.BinaryDiceLoss, "forward")
            cross_entropy = Recorded(torch.nn.functional.cross_entropy)
            patch.setattr(torch.nn.functional, "cross_entropy", cross_entropy)
            used = ("ctx_", "compound_prompts_text.")
            step: Record = {}
            record_step(
                patch, "Adam", lambda: {n: p for n, p in learners[-1].named_parameters() if n.startswith(used)}, step
            )
            common = {
                "n_ctx": 12,
                "t_n_ctx": 4,
                "depth": 9,
                "image_size": SIZE,
                "dataset": "colon",
                "features_list": TAPS,
            }
            common |= {"feature_map_layer": [0, 1, 2, 3], "save_path": str(folder / "saved")}
            trained = common | {"train_data_path": str(root), "batch_size": NUM_PICTURES, "epoch": 1}
            trained |= {"print_freq": 1, "save_freq": 1}
            torch.manual_seed(0)
            training.train(SimpleNamespace(**trained, learning_rate=0.001))
            record |= step
            order = in_order(encoded[0][0][0])
            record["loss.image"] = cross_entropy.returned[0]
            record["loss.focal"] = torch.stack([result for _, result in focal])
            record["loss.dice"], record["loss.complement"] = (
                torch.stack([result for _, result in dice[start::2]]) for start in (0, 1)
            )
            record["trained_maps"] = torch.stack([given[0][order, 1] for given, _ in focal], dim=1)
            record["image_embedding"] = encoded[0][1][0][order]
            record["tokens"] = torch.stack([tokens[order, 1:] for tokens in encoded[0][1][1]], dim=1)
            record["text"] = sentences[0][1]

            small = building.build_model("", small_tower_state("ViT-known-quickgelu"), design)
            small.visual.DAPM_replace(DPAM_layer=20)
            small.encode_image(normalised(SIZE)[:1], TAPS, DPAM_layer=20)
            record["position_embedding"] = small.visual.positional_embedding.detach()

            training.train(SimpleNamespace(**trained, learning_rate=0.0))  # saves the drawn weights as they are
            for layers, prefix in ((TAPS, "all_taps."), ([24], "")):
                blurred, scores = Recorded(testing.gaussian_filter), Recorded(lambda results, *_: 0.0)
                patch.setattr(testing, "gaussian_filter", blurred)
                patch.setattr(testing, "image_level_metrics", scores)
                patch.setattr(testing, "pixel_level_metrics", scores)
                saved = {"data_path": str(root), "checkpoint_path": str(folder / "saved" / "epoch_1.pth")}
                scored = common | saved | {"features_list": layers, "sigma": 4, "metrics": "image-pixel-level"}
                testing.test(SimpleNamespace(**scored))
                results = scores.given[0][0]["colon"]
                record[f"{prefix}map_before_smoothing"] = torch.stack([given[0] for given in blurred.given]) / len(
                    layers
                )
                record[f"{prefix}map"] = torch.as_tensor(np.array(results["anomaly_maps"])).flatten(0, -3) / len(layers)
                record[f"{prefix}score"] = torch.stack(list(results["pr_sp"]))
    return record


def april_gan(folder: Path) -> Record:  # noqa: PLR0915 - one run from start to end
    """Train APRIL-GAN for one step, save, load and score, all by its own programs."""
    root, record = write_meta_tree(folder / "things", "metal_nut", SIZE), {}
    weights = folder / "clip.pt"
    torch.save(tower_state("ViT-known"), weights)
    with official_modules("VAND-APRIL-GAN", "open_clip", "open_clip.model", "train", "test") as found:
        library, model, training, testing = found
        with pytest.MonkeyPatch.context() as patch:
            library.add_model_config(ARCHITECTURES)
            layers: list[nn.Module] = []

            def layer(*args: Any, made: Callable[..., nn.Module] = training.LinearLayer) -> nn.Module:
                layers.append(made(*args))
                fill(dict(layers[-1].named_parameters()))
                return layers[-1]

            patch.setattr(training, "LinearLayer", layer)
            sentences = Recorded(training.encode_text_with_prompt_ensemble)
            patch.setattr(training, "encode_text_with_prompt_ensemble", sentences)
            encoded = record_method(patch, model.CLIP, "encode_image")
            focal = record_method(patch, training.FocalLoss, "forward")
            dice = record_method(patch, training.BinaryDiceLoss, "forward")
            record_step(patch, "Adam", lambda: dict(layers[-1].named_parameters()), record)
            common = {"model": "ViT-known", "pretrained": str(weights), "image_size": SIZE, "features_list": TAPS}
            common |= {"config_path": str(ARCHITECTURES / "ViT-known.json"), "dataset": "visa"}
            common |= {"save_path": str(folder / "saved")}
            trained = common | {"train_data_path": str(root), "batch_size": NUM_PICTURES, "epoch": 1, "aug_rate": 0.0}
            trained |= {"print_freq": 1, "save_freq": 1}
            torch.manual_seed(0)
            training.train(SimpleNamespace(**trained, learning_rate=0.001))
            step = dict(record)
            order = in_order(encoded[0][0][0])
            record["loss.focal"] = torch.stack([result for _, result in focal])
            record["loss.dice"] = torch.stack([result for _, result in dice])
            record["trained_maps"] = torch.stack([given[0][order, 1] for given, _ in focal], dim=1)
            record["image_embedding"] = encoded[0][1][0][order]
            record["tokens"] = torch.stack([tokens[order, 1:] for tokens in encoded[0][1][1]], dim=1)
            record["text"] = sentences.returned[0]["metal_nut"].T

            training.train(SimpleNamespace(**trained, learning_rate=0.0))  # saves the drawn weights as they are
            record |= step
            torch.save(small_tower_state("ViT-known"), folder / "small.pt")
            small, _, _ = library.create_model_and_transforms("ViT-known", SIZE, pretrained=str(folder / "small.pt"))
            record["position_embedding"] = small.visual.positional_embedding.detach()
            ranked = Recorded(lambda *_: 0.0)
            patch.setattr(testing, "roc_auc_score", ranked)
            patch.setattr(testing, "cal_pro_score", lambda *_: 0.0)
            saved = {
                "data_path": str(root),
                "checkpoint_path": str(folder / "saved" / "epoch_1.pth"),
                "mode": "zero_shot",
            }
            testing.test(SimpleNamespace(**common, **saved, k_shot=0, few_shot_features=TAPS))
            record["map"] = ranked.given[0][1].view(NUM_PICTURES, SIZE, SIZE) / len(TAPS)
            record["score"] = ranked.given[1][1].float()
    return record


def ada_clip(folder: Path, *, half: bool = False) -> Record:  # noqa: PLR0915 - one run from start to end
    """Train AdaCLIP for one step on a normal and on an anomalous picture, save, load and score, by its own trainer."""
    record: Record = {}
    rounding = contextlib.nullcontext() if half else without_half_rounding()
    with (
        official_modules("AdaCLIP", "method", "method.custom_clip", "method.adaclip", "method.trainer") as found,
        rounding,
    ):
        package, clip, networks, training = found
        with pytest.MonkeyPatch.context() as patch:
            clip.add_model_config(ARCHITECTURES)
            states = {"own": dict(tower_state("ViT-known"))}
            patch.setattr(
                clip, "load_openai_model", lambda *_, **__: SimpleNamespace(state_dict=lambda: dict(states["own"]))
            )
            patch.setattr(networks, "KMeans", NaiveClusters)
            projected = record_method(patch, networks.AdaCLIP, "proj_visual_tokens")
            sentences = record_method(patch, networks.TextEmbebddingLayer, "forward")
            focal = record_method(patch, training.FocalLoss, "forward")
            dice = record_method(patch, training.BinaryDiceLoss, "forward")

            def trainer() -> Any:
                made = package.AdaCLIP_Trainer(
                    backbone="ViT-known", feat_list=TAPS, input_dim=128, output_dim=64, learning_rate=0.01,
                    device="cpu", image_size=SIZE, prompting_depth=4, prompting_length=5, prompting_branch="VL",
                    prompting_type="SD", use_hsf=True, k_clusters=20,
                )  # fmt: skip
                fill(learned(made))
                return made

            def learned(made: Any) -> dict[str, Tensor]:
                known = {id(value) for value in made.params_to_update}
                return {name: value for name, value in made.named_parameters() if id(value) in known}

            def items(index: int) -> dict[str, Any]:
                mask = torch.from_numpy(masks(SIZE)[index]).float()[None, None]
                image = normalised(SIZE)[index : index + 1]
                return {"img": image, "img_mask": mask, "cls_name": ["metal_nut"], "anomaly": LABELS[index : index + 1]}

            for kind, index in (("normal", 0), ("anomalous", 1)):
                focal.clear(), dice.clear()
                with pytest.MonkeyPatch.context() as once:
                    step: Record = {}
                    made: list[Any] = []
                    record_step(once, "AdamW", lambda made=made: learned(made[0]), step)
                    made.append(trainer())
                    made[0].clip_model.train()
                    made[0].train_one_batch(items(index))
                record |= {f"{kind}.{name}": value for name, value in step.items()}
                record[f"{kind}.loss.image"] = focal[0][1]
                record[f"{kind}.loss.focal"] = torch.stack([result for _, result in focal[1:]])
                record[f"{kind}.loss.dice"], record[f"{kind}.loss.complement"] = (
                    torch.stack([result for _, result in dice[start::2]]) for start in (0, 1)
                )

            model = trainer()
            model.save(folder / "ada_clip.pth")
            model = trainer()
            model.load(folder / "ada_clip.pth")
            projected.clear(), sentences.clear()
            blurred, results = Recorded(training.gaussian_filter), Recorded(lambda *_: {})
            patch.setattr(training, "gaussian_filter", blurred)
            patch.setattr(training, "calculate_metric", results)
            patch.setattr(training, "calculate_average_metric", lambda *_: {})
            model.evaluation([items(index) for index in range(NUM_PICTURES)], ["metal_nut"], save_fig=False)
            evaluated = results.given[0][0]
            record["image_embedding"] = torch.cat([tokens for _, (tokens, _) in projected])
            record["tokens"] = torch.stack([torch.cat(of_all, dim=0) for _, (_, of_all) in projected])
            record["text"] = torch.cat([text for _, text in sentences]).transpose(1, 2)
            record["map_before_smoothing"] = torch.stack([given[0] for given in blurred.given])
            record["map"] = torch.from_numpy(np.stack(evaluated["anomaly_maps"]))
            record["score"] = torch.from_numpy(np.stack(evaluated["anomaly_scores"]))
            by_seed = []
            for seed in range(0 if half else 10):
                model.clip_model.HSF.cluster_performer = KMeans(n_clusters=20, n_init="auto", random_state=seed)
                model.evaluation([items(index) for index in range(NUM_PICTURES)], ["metal_nut"], save_fig=False)
                by_seed.append(np.stack(results.given[-1][0]["anomaly_scores"]))
            if by_seed:
                record["score_by_seed_of_k_means"] = torch.from_numpy(np.stack(by_seed))
            states["own"] = small_tower_state("ViT-known")
            record["position_embedding"] = clip.create_model(
                "ViT-known", SIZE, "openai"
            ).visual.positional_embedding.detach()
    return record


def win_z(folder: Path, *, shots: int = 0) -> Record:
    """Score with Accurate-WinCLIP-pytorch's own program, zero-shot or with the first picture as reference."""
    record: Record = {}
    weights = folder / "clip.pt"
    torch.save(tower_state("ViT-known-windows"), weights)
    with official_modules("Accurate-WinCLIP-pytorch", "src.open_clip", "reproduce_WinCLIP") as found:
        library, program = found
        with pytest.MonkeyPatch.context() as patch:
            root = write_meta_tree(folder / "things", "carpet", WINDOW_SIZE, program.CLSNAMES)
            library.add_model_config(ARCHITECTURES)
            made = library.create_customer_model_and_transforms
            patch.setattr(
                library, "create_customer_model_and_transforms", lambda name, pretrained: made(name, str(weights))
            )
            encoded = record_method(patch, program.CLIP_AD, "encode_image")
            sentences = Recorded(program.prepare_text_future)
            patch.setattr(program, "prepare_text_future", sentences)

            class Enough(Exception):
                """Stops the program before it scores categories that have no pictures."""

            def enough(*_: object) -> None:
                raise Enough

            ranked = Recorded(lambda *_: 0.0)
            patch.setattr(program, "roc_auc_score", ranked)
            patch.setattr(program, "average_precision_score", enough)
            arguments = {
                "image_size": WINDOW_SIZE,
                "features_list": None,
                "few_shot_features": None,
                "data_path": str(root),
            }
            arguments |= {"save_path": str(folder / "saved"), "dataset": "mvtec", "model": "ViT-known-windows"}
            with contextlib.suppress(Enough):
                program.test(SimpleNamespace(**arguments, k_shot=shots))
            large, middle, patches, whole, *_ = encoded[-1][1]
            record["image_embedding"], record["tokens"] = whole, patches[:, :, 0]
            record["windows_2"], record["windows_3"] = middle[:, :, 0], large[:, :, 0]
            record["text"] = torch.nn.functional.normalize(
                torch.cat([of_all[0] for of_all in sentences.returned[0]]), dim=-1
            )
            # With references, the program adds two maps of which this project takes the mean.
            record["map"] = ranked.given[0][1].view(NUM_PICTURES, WINDOW_SIZE, WINDOW_SIZE).float() / (
                2 if shots else 1
            )
            record["score"] = torch.as_tensor(ranked.given[1][1]).float()
    return record


def anomalib_winclip(folder: Path, *, shots: int = 0) -> Record:
    """Score with anomalib's own model of WinCLIP, zero-shot or with the first picture as reference."""
    repository = official_folder("anomalib")
    assert repository is not None
    source, weights = repository / "src" / "anomalib", folder / "clip.pt"
    torch.save(tower_state("ViT-known-windows"), weights)
    names = (
        "anomalib",
        "anomalib.data",
        "anomalib.models",
        "anomalib.models.components",
        "anomalib.models.image.winclip",
    )
    packages = {name: ModuleType(name) for name in (*names, "anomalib.models.image")}
    for name, package in packages.items():  # its own __init__ files import all of anomalib
        package.__path__ = [str(repository / "src" / name.replace(".", "/"))]  # type: ignore[attr-defined]
    packages["anomalib.data"].InferenceBatch = SimpleNamespace  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, package in packages.items():
            patch.setitem(sys.modules, name, package)
        base = source / "models" / "components" / "base"
        for file, mixin in (("buffer_list", "BufferListMixin"), ("dynamic_buffer", "DynamicBufferMixin")):
            setattr(packages["anomalib.models.components"], mixin, getattr(_load(base / f"{file}.py"), mixin))
        program = importlib.import_module("anomalib.models.image.winclip.torch_model")
        open_clip.add_model_config(ARCHITECTURES)
        patch.setattr(program, "BACKBONE", "ViT-known-windows")
        patch.setattr(program, "PRETRAINED", str(weights))
        windows = program.WinClipModel._get_window_embeddings

        def tokens_first(self: Any, *args: Any) -> Tensor:
            """Pass tokens to the transformer in the layout of the open_clip version that anomalib was written for."""
            with pytest.MonkeyPatch.context() as once:
                forward = self.clip.visual.transformer.forward
                swapped = lambda x: forward(x.transpose(0, 1)).transpose(0, 1)  # noqa: E731
                once.setattr(self.clip.visual.transformer, "forward", swapped)
                return windows(self, *args)

        patch.setattr(program.WinClipModel, "_get_window_embeddings", tokens_first)
        encoded = record_method(patch, program.WinClipModel, "encode_image")
        image = normalised(WINDOW_SIZE)
        model = program.WinClipModel(class_name="carpet", reference_images=image[:1] if shots else None)
        result = model.eval()(image)
        for name in [name for name in sys.modules if name.startswith("anomalib.")]:
            patch.delitem(sys.modules, name)
    whole, (middle, large), patches = encoded[-1][1]
    text = torch.nn.functional.normalize(model.text_embeddings, dim=-1)
    return {
        "image_embedding": whole,
        "tokens": patches,
        "windows_2": middle,
        "windows_3": large,
        "text": text,
        "map": result.anomaly_map,
        "score": result.pred_score,
    }


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class NaiveClusters:
    """Stand in for k-means, whose seeds the published program draws from one state for a whole run."""

    def __init__(self, n_clusters: int, **_: object) -> None:
        self.num_clusters = n_clusters

    def fit_predict(self, points: np.ndarray) -> np.ndarray:
        """Return labels that depend on the points alone."""
        return np.array(naive_clusters(torch.from_numpy(points), self.num_clusters))


def losses(_: Path) -> Record:
    """Compute AdaCLIP's loss terms, the same as AnomalyCLIP's and APRIL-GAN's, on hard logits; Dice also by row."""
    record: Record = {}
    with official_modules("AdaCLIP", "loss") as (program,):
        for term, images in (("focal", NUM_PICTURES), ("dice", NUM_PICTURES), ("dice_of_rows", 1)):
            logits = hard_logits().requires_grad_()
            both = torch.stack([torch.zeros_like(logits), logits], dim=1).softmax(dim=1)[:images]
            mask = torch.from_numpy(masks(32)[:images]).float()[:, None].squeeze()
            value = program.FocalLoss()(both, mask) if term == "focal" else program.BinaryDiceLoss()(both[:, 1], mask)
            record[term] = value.detach()
            (record[f"{term}.grad"],) = torch.autograd.grad(value, logits)
    return record


def published_pro(_: Path) -> Record:
    """Compute the two repositories' own PRO, which is the same function in both.

    Uses float64 maps, because with float32 maps the rounding of the thresholds depends on NumPy's version.
    """
    record: Record = {}
    for repository, module in (("AnomalyCLIP", "metrics"), ("VAND-APRIL-GAN", "test")):
        with official_modules(repository, module) as (program,):
            for name, (maps, mask) in pro_cases().items():
                value = program.cal_pro_score(mask.numpy().astype(np.float32), maps.double().numpy())
                assert record.setdefault(f"{name}.value", torch.tensor(value, dtype=torch.float64)) == value
                record |= {f"{name}.map": maps, f"{name}.mask": mask}
    return record


def mosaic_labels(folder: Path) -> list[tuple[bool, bool]]:
    """Ask AdaCLIP's dataset for a collage in the place of each picture: its label, and whether it shows a defect."""
    write_meta_tree(folder, "metal_nut", SIZE, ["metal_nut"])
    with official_modules("AdaCLIP", "dataset.base_dataset") as (program,):
        dataset = program.BaseDataset(["metal_nut"], None, None, str(folder), aug_rate=1.0, training=True)
        items = [dataset[index] for index in range(len(dataset))]
    return [(bool(item["anomaly"]), bool(np.asarray(item["img_mask"]).any())) for item in items]


def sentences(repository: str, category: str) -> tuple[list[str], list[str]]:
    """Ask a repository for its normal and its abnormal sentences, each in alphabetical order."""
    read: list[list[str]] = []

    def tokenize(texts: list[str], **_: object) -> Tensor:
        read.append(texts)
        return torch.zeros(len(texts), 77, dtype=torch.int)

    model = SimpleNamespace(encode_text=lambda ids: torch.ones(len(ids), 2))
    if repository == "anomalib":
        prompting = _load(Path(os.environ[VARIABLE]) / "anomalib/src/anomalib/models/image/winclip/prompting.py")
        read += prompting.create_prompt_ensemble(category)
    elif repository == "VAND-APRIL-GAN":
        with official_modules(repository, "prompt_ensemble") as (program,):
            program.encode_text_with_prompt_ensemble(model, [category], tokenize, "cpu")
    elif repository == "AdaCLIP":
        with official_modules(repository, "method.adaclip") as (program,):
            layer = program.TextEmbebddingLayer(fixed=True)
            layer.tokenize = tokenize
            layer.encode_text(model, category, "cpu")
    else:
        with official_modules(repository, "reproduce_WinCLIP") as (program,):
            read += program.prompt_order().prompt(category)
    normal, abnormal = read
    return sorted(normal), sorted(abnormal)


def af_clip(folder: Path) -> Record:  # noqa: PLR0915 - one run from start to end
    """Train AF-CLIP for one step, and score without and with one normal picture, all by its own programs."""
    record: Record = {}
    modules = ("main", "clip.model", "util.utils")
    with official_modules("AF-CLIP", *modules) as (program, model, evaluation), pytest.MonkeyPatch.context() as patch:
        made: list[Any] = []

        def load(**_: Any) -> tuple[nn.Module, SimpleNamespace]:
            made.append(model.build_model(dict(tower_state("ViT-known-quickgelu"))))
            return made[-1], SimpleNamespace(transforms=[None, None])

        class Pictures(torch.utils.data.Dataset[tuple[Tensor, int, Tensor]]):
            """The drawn pictures, in the shape of the program's datasets."""

            dataset_name, categories, train, fewshot = "drawn", ["colon"], False, 0

            def __init__(self, **_: Any) -> None:
                self.cur_img_paths: list[str] = []

            def update(self, category: str) -> None:
                self.category = category

            def __len__(self) -> int:
                return 1 if self.train else NUM_PICTURES

            def __getitem__(self, index: int) -> tuple[Tensor, int, Tensor]:
                mask = torch.from_numpy(masks(SIZE)[index])[None].float()
                return normalised(SIZE)[index], int(mask.any()), mask

        insert = model.CLIP.insert

        def inserted(self: Any, **given: Any) -> None:
            insert(self, **given)
            fill_af_clip(self)

        patch.setattr(program, "load", load)
        patch.setattr(model.CLIP, "insert", inserted)
        for name in [name for name in vars(program) if name.endswith("Dataset")]:
            patch.setattr(program, name, Pictures)
        forward = record_method(patch, model.CLIP, "detect_forward_seg")
        sentences = record_method(patch, model.CLIP, "encode_state_prompt")
        focal = Recorded(program.focal_loss)
        l1, alignment = Recorded(program.l1_loss), Recorded(program.patch_alignment_loss)
        for name, function in (("focal_loss", focal), ("l1_loss", l1), ("patch_alignment_loss", alignment)):
            patch.setattr(program, name, function)
        scores, blurred = Recorded(lambda *_: {}), Recorded(evaluation.gaussian_filter)
        patch.setattr(evaluation, "calculate_metrics", scores)
        patch.setattr(evaluation, "compute_pro", lambda *_: 0.0)
        patch.setattr(evaluation, "gaussian_filter", blurred)
        record_step(patch, "Adam", lambda: af_clip_parameters(made[-1]), record)
        common = {"log_dir": str(folder), "data_dir": "", "model": "", "clip_download_dir": "", "weight": None}
        common |= {
            "prompt_len": 12,
            "feature_layers": TAPS,
            "memory_layers": TAPS,
            "alpha": 0.1,
            "vis": 0,
            "seed": 0,
        }
        common |= {"img_size": SIZE, "batch_size": NUM_PICTURES, "epochs": 1, "lambda1": 1, "lambda2": 1}
        torch.manual_seed(0)
        trained = SimpleNamespace(**common, dataset="mvtec", test_dataset=["mvtec"], fewshot=0, lr=0.0001)
        patch.setattr(program, "available_models", list)
        program.train(trained)
        ((image, *_), (score, grid_map, tokens)) = forward[0]
        order = in_order(image)
        record["trained_maps"], record["class_score"] = grid_map[order], score[order]
        record["tokens"] = torch.stack([stream[order, 1:] for stream in tokens], dim=1)
        record["text"] = sentences[0][1]
        record["loss.image"], record["loss.focal"] = focal.returned[:2]
        record["loss.l1"], record["loss.alignment"] = l1.returned[0], torch.as_tensor(alignment.returned[0])

        network = made[-1]
        fill_af_clip(network)
        for shots, prefix in ((0, ""), (1, "one_shot.")):
            blurred.given.clear()
            blurred.returned.clear()
            scores.given.clear()
            given = SimpleNamespace(**common, fewshot=shots)
            evaluation.eval_all_class(network, "drawn", Pictures(), given, logging.getLogger("drawn"), "cpu")
            scale = 1.1 if shots else 1.0  # this project divides by the sum of the weights
            record[f"{prefix}map_before_smoothing"] = torch.cat([one[0] for one in blurred.given]) / scale
            record[f"{prefix}map"] = torch.cat(blurred.returned) / scale
            record[f"{prefix}score"] = scores.given[0][0] / scale

        small = model.build_model(small_tower_state("ViT-known-quickgelu"))
        small.encode_image(normalised(SIZE)[:1], TAPS)
        record["position_embedding"] = small.visual.positional_embedding.detach()
    return record


def fill_af_clip(network: Any) -> None:
    """Fill what AF-CLIP learns; with a norm as weak as the other weights its attention would be the same everywhere."""
    fill(af_clip_parameters(network))
    with torch.no_grad():
        network.adaptor.attention.norm.weight.mul_(AF_CLIP_NORM)


def af_clip_parameters(network: Any) -> dict[str, Tensor]:
    """Return what AF-CLIP learns by its own names."""
    adapter = {f"adaptor.{name}": value for name, value in network.adaptor.named_parameters()}
    return adapter | {"state_prompt_embedding": network.state_prompt_embedding}


def aa_clip(folder: Path) -> Record:  # noqa: PLR0915 - one run from start to end
    """Train both stages of AA-CLIP for one step, save, load and score, all by its own programs."""
    record: Record = {}
    modules = ("train", "test", "forward_utils", "model.adapter", "model.clip")
    programs = official_modules("AA-CLIP", *modules)
    with programs as (training, testing, using, adapter, clip), pytest.MonkeyPatch.context() as patch:
        name, widths = "ViT-known-quickgelu", {1024: 128, 768: 64}
        patch.setattr(clip, "_MODEL_CONFIG_PATHS", [ARCHITECTURES])
        patch.setattr(clip, "_MODEL_CKPT_PATHS", {name: ""})
        clip._rescan_model_configs()
        states = {"own": tower_state(name)}
        patch.setattr(clip, "load_openai_model", lambda **_: SimpleNamespace(state_dict=lambda: dict(states["own"])))
        for layer in ("SimpleAdapter", "SimpleProj"):
            made = getattr(adapter, layer)
            patch.setattr(adapter, layer, lambda a, b, *c, made=made, **d: made(widths[a], widths[b], *c, **d))
        networks: list[Any] = []

        def drawn(network: Any) -> None:
            networks.append(network)
            fill(aa_clip_parameters(network))

        patch.setattr(adapter.AdaptedCLIP, "_init_weights_", drawn)
        items = [
            {
                "image": image,
                "mask": torch.from_numpy(mask)[None].float(),
                "label": int(mask.any()),
                "class_name": "screw",
                "file_name": "",
            }
            for image, mask in zip(normalised(SIZE), masks(SIZE), strict=True)
        ]
        patch.setattr(training, "get_dataset", lambda *_: (items, items))
        patch.setattr(testing, "get_dataset", lambda *_, **__: {"screw": items})
        looked = record_method(patch, clip.CLIP, "encode_image")
        adapted = record_method(patch, adapter.AdaptedCLIP, "forward")
        sentences = Recorded(training.get_adapted_single_class_text_embedding)
        patch.setattr(training, "get_adapted_single_class_text_embedding", sentences)
        compared = Recorded(training.calculate_similarity_map)
        patch.setattr(training, "calculate_similarity_map", compared)
        focal = record_method(patch, using.FocalLoss, "forward")
        dice = record_method(patch, using.BinaryDiceLoss, "forward")
        cross_entropy = Recorded(torch.nn.functional.cross_entropy)
        patch.setattr(torch.nn.functional, "cross_entropy", cross_entropy)
        common = [
            "",
            "--model_name",
            name,
            "--img_size",
            str(SIZE),
            "--dataset",
            "MVTec",
            "--save_path",
            str(folder),
        ]
        trained = ["--text_epoch", "1", "--image_epoch", "1", "--text_batch_size", str(NUM_PICTURES)]
        trained += ["--image_batch_size", str(NUM_PICTURES), "--training_mode", "full_shot"]

        step: Record = {}
        with pytest.MonkeyPatch.context() as once:
            once.setattr(sys, "argv", [*common, *trained, "--text_lr", "5e-4", "--image_lr", "5e-4"])
            record_step(once, "Adam", lambda: aa_clip_parameters(networks[-1]), step)
            training.main()
        for kind, stage in (("text", slice(4)), ("image", slice(4, 8))):
            given = looked[0][0][0] if kind == "text" else adapted[0][0][0]
            order = in_order(given)
            start = f"{kind}_adapter."
            record |= {f"{kind}.{one}": value for one, value in step.items() if one.split(".", 1)[1].startswith(start)}
            record[f"{kind}.tokens"] = torch.stack([one[0][order] for one in compared.given[stage]], dim=1)
            record[f"{kind}.trained_maps"] = torch.stack([one[0][0][order, 1] for one in focal[stage]], dim=1)
            # Of the text's four losses, the program keeps the last.
            kept = slice(stage.stop - 1, stage.stop) if kind == "text" else stage
            record[f"{kind}.loss.focal"] = torch.stack([result for _, result in focal[kept]])
            pairs = [result for _, result in dice[2 * kept.start : 2 * kept.stop]]
            record[f"{kind}.loss.complement"], record[f"{kind}.loss.dice"] = (
                torch.stack(pairs[which::2]) for which in (0, 1)
            )
        record["image.loss.image"] = cross_entropy.returned[0]
        record["text"] = sentences.returned[0].T
        record["text.loss.separation"] = (record["text"][0] @ record["text"][1]) ** 2

        for file in folder.iterdir():
            file.unlink()
        with pytest.MonkeyPatch.context() as once:
            once.setattr(sys, "argv", [*common, *trained, "--text_lr", "0", "--image_lr", "0"])
            training.main()  # saves the drawn weights as they are

        class Enough(Exception):
            """Stops the program before it computes metrics."""

        def measured(*given: Any, **_: Any) -> None:
            # The map adds up the taps, each as half of 1 plus a hundred times its difference of cosines.
            record["map"] = ((torch.from_numpy(given[2]) - 2) / 2).sigmoid()
            record["class_score"] = torch.from_numpy(given[3])
            raise Enough

        patch.setattr(testing, "metrics_eval", measured)
        with pytest.MonkeyPatch.context() as once, contextlib.suppress(Enough):
            once.setattr(sys, "argv", common)
            testing.main()
        states["own"] = small_tower_state(name)
        small = clip.create_model(name, SIZE, pretrained="openai")
        record["position_embedding"] = small.visual.positional_embedding.detach()
    return record


def aa_clip_parameters(network: Any) -> dict[str, Tensor]:
    """Return what AA-CLIP learns by its own names."""
    parts = {name: getattr(network, name) for name in ("text_adapter", "image_adapter")}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.named_parameters()}


def visual_ad(folder: Path) -> Record:  # noqa: PLR0915 - one run from start to end
    """Train VisualAD for one step, save, load and score, all by its own programs; nothing is dropped."""
    root, record = write_meta_tree(folder / "colon", "colon", SIZE), {}
    modules = ("VisualAD_lib", "VisualAD_lib.build_model", "train", "test", "utils.loss")
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    programs = official_modules("VisualAD", *modules)
    with programs as (library, building, training, testing, losses_of_it), pytest.MonkeyPatch.context() as patch:
        torch.use_deterministic_algorithms(was_deterministic)  # which importing the program has changed
        state = tower_state("ViT-known-quickgelu")
        patch.setattr(library, "load", lambda *_, **__: (building.build_model("", dict(state)), None))
        patch.setattr(nn.Dropout, "forward", lambda _, tokens: tokens)
        learned: dict[str, Tensor] = {}
        make = training.create_optimizer

        def optimizer(model: Any, transforms: nn.Module, given: Any, cross_attn: nn.Module) -> Any:
            visual = model.visual
            learned.update({"anomaly_token": visual.anomaly_token, "normal_token": visual.normal_token})
            learned.update({f"ln_post_{name}": value for name, value in visual.ln_post.named_parameters()})
            for part, module in (("layer_transforms", transforms), ("cross_attn", cross_attn)):
                learned.update({f"{part}.{name}": value for name, value in module.named_parameters()})
            fill(learned)
            with torch.no_grad():
                for name in [name for name in learned if name.endswith(VISUAL_AD_NORMS)]:
                    learned[name].mul_(VISUAL_AD_NORM)
            return make(model, transforms, given, cross_attn)

        patch.setattr(training, "create_optimizer", optimizer)
        compared = Recorded(training.generate_anomaly_map_from_tokens)
        patch.setattr(training, "generate_anomaly_map_from_tokens", compared)
        looked = record_method(patch, library.VisualAD.VisualAD, "encode_image")
        terms = {
            name: record_method(patch, getattr(losses_of_it, name), "forward")
            for name in ("FocalLoss", "BinaryDiceLoss", "ContrastiveLoss")
        }
        cross_entropy = Recorded(torch.nn.functional.binary_cross_entropy_with_logits)
        patch.setattr(torch.nn.functional, "binary_cross_entropy_with_logits", cross_entropy)
        common = {"backbone": "", "features_list": TAPS, "image_size": SIZE, "device": "cpu"}
        trained = common | {"train_data_path": str(root), "train_dataset": "colon", "save_path": str(folder)}
        trained |= {"epoch": 1, "batch_size": NUM_PICTURES, "print_freq": 1, "save_freq": 1}
        record_step(patch, "AdamW", lambda: learned, record)
        training.train(SimpleNamespace(**trained, learning_rate=0.001))
        step, order = dict(record), in_order(looked[0][0][0])
        abnormal, normal, patches, _ = zip(*compared.given, strict=True)
        record["tokens"] = torch.stack([tap[order] for tap in patches], dim=1)
        record["prototypes"] = torch.stack([normal[-1][order], abnormal[-1][order]], dim=1)
        record["trained_maps"] = torch.stack([given[0][order, 1] for given, _ in terms["FocalLoss"]], dim=1)
        record["loss.image"] = cross_entropy.returned[0]
        for name, term in (("FocalLoss", "focal"), ("BinaryDiceLoss", "dice"), ("ContrastiveLoss", "separation")):
            record[f"loss.{term}"] = torch.stack([result for _, result in terms[name]])

        training.train(SimpleNamespace(**trained, learning_rate=0.0))  # saves the drawn weights as they are
        # A bias of all keys shifts all attention logits alike, so its gradient is rounding.
        record |= {name: value for name, value in step.items() if not name.endswith("k_norm.bias")}
        for name in [name for name in record if name.endswith("k_norm.bias")]:
            del record[name]
        blurred, scores = Recorded(testing.gaussian_filter), Recorded(testing.get_classification_from_segmentation)
        patch.setattr(testing, "gaussian_filter", blurred)
        patch.setattr(testing, "get_classification_from_segmentation", scores)
        patch.setattr(testing, "compute_metrics", lambda *_: None)
        scored = common | {"test_data_path": str(root), "test_dataset": "colon", "save_path": str(folder)}
        scored |= {"checkpoint_path": str(folder / "final_model.pth"), "sigma": 4, "enable_analysis": False}
        testing.test(SimpleNamespace(**scored))
        record["map_before_smoothing"] = torch.stack([given[0] for given in blurred.given]).sigmoid()
        record["map"] = torch.stack(blurred.returned).sigmoid()
        record["score"] = torch.tensor(scores.returned[0][0]).sigmoid()
    return record


def adapt_clip(folder: Path) -> Record:  # noqa: PLR0915 - one run from start to end
    """Train AdaptCLIP for one step, and score without and with one normal picture, all by its own programs."""
    root, record = write_meta_tree(folder / "colon", "colon", SIZE), {}
    meta = json.loads((root / "meta.json").read_text())
    # A reference that is not scored: of a picture next to itself the programs divide by rounding.
    mirrored = meta["test"]["colon"][0] | {"img_path": "colon/mirrored.png"}
    Image.fromarray(np.ascontiguousarray(pictures(SIZE)[0][:, ::-1])).save(root / mirrored["img_path"])
    (root / "meta.json").write_text(json.dumps(meta | {"train": {"colon": [mirrored]}}))
    modules = ("adaptcliplib", "adaptcliplib.build_model", "adaptcliplib.adaptclip", "train", "test")
    programs = official_modules("AdaptCLIP", *modules)
    with programs as (library, building, network, training, testing), pytest.MonkeyPatch.context() as patch:
        state = tower_state("ViT-known-quickgelu")
        patch.setattr(library, "load", lambda *_, **__: (building.build_model("", dict(state)), None))
        load = torch.utils.data.DataLoader
        patch.setattr(torch.utils.data, "DataLoader", lambda *a, **given: load(*a, **given | {"num_workers": 0}))
        sizes = {"input_dim": state["text_projection"].shape[1], "patch_size": 8}
        learners: dict[str, nn.Module] = {}

        def drawn(part: str, made: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
            def make(*args: Any, **given: Any) -> nn.Module:
                if part != "textual_learner":  # the programs' own sizes are those of ViT-L/14
                    args, given = args[:1], given | sizes
                learners[part] = made(*args, **given)
                fill(adapt_clip_learned(learners))
                return learners[part]

            return make

        for program in (training, testing):
            for kind, part in ADAPT_CLIP_PARTS.items():
                patch.setattr(program, kind, drawn(part, getattr(program, kind)))
        encoded = record_method(patch, network.AdaptCLIP, "encode_image")
        sentences = record_method(patch, network.AdaptCLIP, "encode_text_learn")
        focal = record_method(patch, training.FocalLoss, "forward")
        dice = record_method(patch, training.BinaryDiceLoss, "forward")
        cross_entropy = Recorded(torch.nn.functional.cross_entropy)
        patch.setattr(torch.nn.functional, "cross_entropy", cross_entropy)
        common = {"pretrained_model": "ViT-L/14@336px", "dataset": "colon", "features_list": TAPS, "image_size": SIZE}
        common |= {"seed": 10, "n_ctx": 12, "vl_reduction": 4, "pq_mid_dim": 128, "pq_context": True}
        common |= {"visual_learner": True, "textual_learner": True, "pq_learner": True, "batch_size": NUM_PICTURES}
        trained = common | {"train_data_path": str(root), "save_path": str(folder), "k_shots": 1}
        trained |= {"epoch": 1, "print_freq": 1, "save_freq": 1}
        step: Record = {}
        record_step(patch, "Adam", lambda: adapt_clip_learned(learners), step)
        torch.manual_seed(0)
        training.train(SimpleNamespace(**trained, learning_rate=0.001))
        # Batch norms behind the taps' biases take these out again, so that their gradients are mostly rounding.
        cancelled = tuple(f"pq_learner.sharebn.{tap}.bias" for tap in range(len(TAPS)))
        record |= {name: value for name, value in step.items() if not name.endswith(cancelled)}
        order = in_order(encoded[0][0][0])
        record["image_embedding"] = encoded[0][1][0][order]
        record["tokens"] = torch.stack([tokens[order] for tokens in encoded[0][1][1]], dim=1)
        record["trained_maps"] = torch.stack([given[0][order, 1] for given, _ in focal], dim=1)
        record["loss.image"] = torch.stack(cross_entropy.returned).mean()  # whose weight here is their number
        record["loss.focal"] = torch.stack([result for _, result in focal])
        record["loss.dice"], record["loss.complement"] = (
            torch.stack([result for _, result in dice[start::2]]) for start in (0, 1)
        )
        training.train(SimpleNamespace(**trained, learning_rate=0.0))  # saves the drawn weights as they are
        for part, module in learners.items():
            known = {id(value): name for name, value in reversed(list(module.named_buffers()))}
            named = {name: value for name, value in module.named_buffers() if known[id(value)] == name}
            record |= {f"{part}.{name}": value.clone() for name, value in named.items() if ".running_" in name}

        blurred = Recorded(testing.gaussian_filter)
        patch.setattr(testing, "gaussian_filter", blurred)
        results: list[Any] = []
        measured = SimpleNamespace(run=lambda given, *_: results.append(given))
        patch.setattr(testing, "Evaluator", lambda *_, **__: measured)
        for shots, prefix in ((0, ""), (1, "one_shot.")):
            blurred.given.clear()
            scored = common | {"test_data_path": str(root), "save_path": str(folder), "k_shots": shots, "sigma": 4}
            scored |= {"checkpoint_path": str(folder / "epoch_1.pth"), "fusion_type": "average_mean"}
            testing.test(SimpleNamespace(**scored, eval_metrics=[], class_name=None))
            record[f"{prefix}map_before_smoothing"] = torch.stack([given[0] for given in blurred.given])
            record[f"{prefix}map"], record[f"{prefix}score"] = results[-1]["pr_masks"], results[-1]["pr_anomalys"]
        record["text"] = sentences[0][1]
        record["static_text"] = torch.nn.functional.normalize(learners["textual_learner"].static_text_features, dim=-1)

        small = building.build_model("", small_tower_state("ViT-known-quickgelu"))
        small.visual.DAPM_replace(DPAM_layer=20)
        small.encode_image(normalised(SIZE)[:1], TAPS, DPAM_layer=20)
        record["position_embedding"] = small.visual.positional_embedding.detach()
    return record


ADAPT_CLIP_PARTS = {
    "TextualAdapter": "textual_learner",
    "VisualAdapter": "visual_learner",
    "PQAdapter": "pq_learner",
}
"""AdaptCLIP's adapters and where its files keep them."""


def adapt_clip_learned(learners: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return what AdaptCLIP learns by its own names."""
    return {f"{part}.{name}": value for part, module in learners.items() for name, value in module.named_parameters()}


def with_half(run: Callable[..., Record]) -> Callable[[Path], Record]:
    """Record a run that does not round prompts to half precision, and the main results of one that does."""

    def both(folder: Path) -> Record:
        (folder / "half").mkdir()
        rounded = run(folder / "half", half=True)
        return run(folder) | {f"half.{name}": rounded[name] for name in ("text", "map", "score")}

    return both


RUNS: dict[str, tuple[Callable[[Path], Record], str]] = {
    "anomaly_clip": (with_half(anomaly_clip), "AnomalyCLIP"),
    "april_gan": (april_gan, "VAND-APRIL-GAN"),
    "ada_clip": (with_half(ada_clip), "AdaCLIP"),
    "af_clip": (af_clip, "AF-CLIP"),
    "aa_clip": (aa_clip, "AA-CLIP"),
    "visual_ad": (visual_ad, "VisualAD"),
    "adapt_clip": (adapt_clip, "AdaptCLIP"),
    "losses": (losses, "AdaCLIP"),
    "winclip_z": (win_z, "Accurate-WinCLIP-pytorch"),
    "winclip_z_one_shot": (functools.partial(win_z, shots=1), "Accurate-WinCLIP-pytorch"),
    "winclip_anomalib": (anomalib_winclip, "anomalib"),
    "winclip_anomalib_one_shot": (functools.partial(anomalib_winclip, shots=1), "anomalib"),
    "published_pro": (published_pro, "AnomalyCLIP"),
}
"""The golden files: how each is made, and from which repository."""


def write(folder: Path, names: Sequence[str] = tuple(RUNS)) -> None:
    """Write the golden files: small tensors whole, and evenly spread entries of large ones."""
    for name in names:
        run, repository = RUNS[name]
        with TemporaryDirectory() as temporary:
            record = run(Path(temporary))
        keep = (lambda value: value) if name == "published_pro" else thinned
        tensors = {key: keep(value).contiguous() for key, value in sorted(record.items())}
        # One metadata entry only: safetensors writes several in random order, and the bytes should be reproducible.
        save_file(tensors, folder / f"{name}.safetensors", {"program": f"{repository} at {COMMITS[repository]}"})


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(ARCHITECTURES, sys.argv[1:] or tuple(RUNS))
