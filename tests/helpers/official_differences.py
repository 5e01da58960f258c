"""Compute with this project what ``official_code`` records, and measure the differences."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afr_clip.clip.weights import resize_position_embeddings
from afr_clip.losses.total import AnomalyLoss, LossTerms, dice_loss, focal_loss, rows_as_images
from afr_clip.models.ada_clip.network import released_tensors
from afr_clip.models.visual_ad.network import released_tensors as visual_ad_tensors
from afr_clip.models.winclip.windows import embed_windows, window_positions
from afr_clip.training.schedule import optimizer_factory, optimizer_of
from helpers.configs import _compose, validate
from helpers.methods import build_method
from helpers.repeatable import (
    NUM_PICTURES,
    learned_state,
    load_repeatable_towers,
    masks,
    normalised,
    small_tower_state,
    uniform,
)

KEPT = 192
"""About how many evenly spread entries a golden file keeps of a large tensor."""

SIZE, WINDOW_SIZE = 64, 240
"""Sides of the pictures in pixels: those of the learning methods, and WinCLIP's."""

AF_CLIP_NORM = 5.0
"""Enlarges the drawn weight of the norm in front of AF-CLIP's attention."""

VISUAL_AD_NORM, VISUAL_AD_NORMS = 7.0, ("q_norm.weight", "k_norm.weight")
"""The same for the norms of VisualAD's queries and keys."""

IS_ANOMALOUS = torch.arange(NUM_PICTURES) % 2 == 1

Record = dict[str, Tensor]
Names = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Maps tensors under this project's names to the same tensors, or parts of them, under released names."""


def thinned(value: Tensor) -> Tensor:
    """Keep about ``KEPT`` entries of a large tensor; an odd stride visits every row and column in turn."""
    stride = value.numel() // KEPT
    return value.flatten()[:: stride | 1].clone() if stride > 1 else value


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference between two tensors, and the largest official value."""

    largest: float
    scale: float


def difference(ours: Tensor, official: Tensor) -> Difference:
    """Compare a tensor with an official one, of which a golden file may hold only some entries."""
    ours = ours.detach()
    if ours.shape != official.shape:
        ours = thinned(ours)
    assert ours.shape == official.shape, f"{tuple(ours.shape)} here, {tuple(official.shape)} officially"
    return Difference(float((ours - official).abs().max()), float(official.abs().max()))


class Comparison:
    """Differences by name, between a network of this project and the record of an official run."""

    def __init__(self, record: Record, network: nn.Module, method: str = "", names: Names = dict) -> None:
        self.record, self.network, self.names = record, network, names
        self.found: dict[str, Difference] = {}
        self.unread = set(record)
        self.reference: tuple[Tensor, ...] = ()
        if method:
            self.job = validate(_compose(f"module={method}", "dataset=visa"))

    def __setitem__(self, name: str, ours: Tensor) -> None:
        self.found[name] = difference(ours, self.read(name))

    def read(self, name: str) -> Tensor:
        """Return a value of the record, and mark it as compared."""
        self.unread.discard(name)
        return self.record[name]

    def complete(self) -> dict[str, Difference]:
        """Return the differences, after checking that the whole record was compared."""
        assert not self.unread
        return self.found

    def positions(self, architecture: str) -> None:
        """Compare position embeddings of 6 x 6 patches, interpolated to 8 x 8 as the method's default backbone does."""
        state = small_tower_state(architecture)
        resize_position_embeddings(state, self.network.backbone.clip, self.job.backbone.position_embeddings)
        self["position_embedding"] = state["visual.positional_embedding"]

    def loss(self, prefix: str, image: Tensor, category: list[str], mask: Tensor, is_anomalous: Tensor) -> None:
        """Compare the terms of the recipe's loss, all gradients, and the weights after one step of its optimiser."""
        self.network.zero_grad()
        prediction = self.network(image, category, *self.reference)
        if f"{prefix}trained_maps" in self.record:
            self[f"{prefix}trained_maps"] = prediction.trained_maps
        loss = AnomalyLoss(**vars(self.job.loss))
        seen = prediction.trained_maps, prediction.trained_scores
        terms: LossTerms = loss(*seen, mask, is_anomalous, prediction.patch_tokens, prediction.prototypes)
        for term in ("image", "focal", "dice", "complement", "l1", "alignment", "separation"):
            name, weight = f"{prefix}loss.{term}", getattr(loss, f"{term}_weight")
            if name in self.record:
                self.found[name] = difference(getattr(terms, term) / weight, self.read(name).sum())
        trained = {
            name: p for name, p in self.network.named_parameters() if name in self.network.trainable_parameter_names()
        }
        optimizer = optimizer_of(self.network, optimizer_factory(self.job.optimizer))
        terms.total.backward()
        gradients = self.names({name: value.grad for name, value in trained.items() if value.grad is not None})
        optimizer.step()
        stepped = self.names(trained)
        found: dict[str, list[Difference]] = {"gradients, relative": [], "weights after a step": []}
        # The programs skip parameters without a gradient. AdaCLIP's text prompt of block 1, which nothing reads, is one
        # of them; here it is part of a larger tensor and decays with it.
        start = f"{prefix}grad."
        for name in [name.removeprefix(start) for name in self.record if name.startswith(start)]:
            official = self.read(f"{prefix}grad.{name}")
            one, large = difference(gradients[name], official), official.abs().max()
            found["gradients, relative"].append(Difference(one.largest / one.scale, 1.0))
            # Adam's first step divides a gradient by its own size, so the sign of one near 0 is a matter of rounding.
            sure = official.abs() > 1e-3 * large
            weights = stepped[name].detach()
            weights = weights if weights.shape == official.shape else thinned(weights)
            after = self.read(f"{prefix}stepped.{name}")
            found["weights after a step"].append(difference(weights[sure], after[sure]))
        for title, differences in found.items():
            assert differences
            largest, scale = (max(getattr(one, key) for one in differences) for key in ("largest", "scale"))
            self.found[f"{prefix}{title}"] = Difference(largest, scale)


def anomaly_clip_names(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    context, deep = values["prompts.context"], values["prompts.deep"]
    return {"ctx_pos": context[:1, None], "ctx_neg": context[1:, None]} | {
        f"compound_prompts_text.{index}": tokens for index, tokens in enumerate(deep)
    }


def april_gan_names(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("adapters", "fc"): value for name, value in values.items() if name.startswith("adapters.")}


def af_clip_names(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    adapter = {name.removeprefix("adapter."): value for name, value in values.items() if name.startswith("adapter.")}
    parts = {"query": "attn.to_q", "key": "attn.to_k", "value": "attn.to_v", "out": "attn.to_out.0", "norm": "norm"}
    named = {f"adaptor.attention.{parts[name.split('.')[0]]}.{name.split('.')[1]}": v for name, v in adapter.items()}
    return named | {"state_prompt_embedding": values["context"][None]}


def on_released_weights(
    method: str, architecture: str, folder: Path, released: Path | None, *overrides: str
) -> nn.Module:
    """Build a method on the drawn towers and on the drawn learned weights, from an official file or one like it."""
    entry, names = RELEASED[method]
    towers = load_repeatable_towers(architecture, folder, (6, 12, 18, 24))
    if released is None:
        released = folder / f"{method}.pth"
        shapes = {
            name: value.shape for name, value in names(dict(build_method(method, towers).named_parameters())).items()
        }
        state = learned_state(shapes)
        torch.save({entry: state} if entry else state, released)
    return build_method(method, towers, f"module.network.released_weights={released}", *overrides)


RELEASED: dict[str, tuple[str, Names]] = {
    "anomaly_clip": ("prompt_learner", anomaly_clip_names),
    "april_gan": ("trainable_linearlayer", april_gan_names),
    "ada_clip": ("", released_tensors),
}
"""Where a released file keeps its tensors, and their names."""


def anomaly_clip(record: Record, folder: Path, released: Path | None = None) -> dict[str, Difference]:
    image, category = normalised(SIZE), ["colon"] * NUM_PICTURES
    make = ("anomaly_clip", "ViT-known-quickgelu", folder, released)
    compare = Comparison(
        record, on_released_weights(*make, "module.network.readout.all_taps=true"), "anomaly_clip", anomaly_clip_names
    )
    with torch.no_grad():
        whole, *patches = compare.network.tapped(image)
        compare["image_embedding"], compare["tokens"] = whole[:, 0], torch.stack(patches, dim=1)
        compare["text"] = compare["half.text"] = compare.network.prompts()
        for prefix, network in (("all_taps.", compare.network), ("", on_released_weights(*make))):
            prediction = network(image, category)
            compare[f"{prefix}map_before_smoothing"] = prediction.trained_maps.mean(dim=1)
            compare[f"{prefix}map"], compare[f"{prefix}score"] = prediction.anomaly_map, prediction.image_score
        compare["half.map"], compare["half.score"] = prediction.anomaly_map, prediction.image_score
    compare.positions("ViT-known-quickgelu")
    compare.loss("", image, category, torch.from_numpy(masks(SIZE)), IS_ANOMALOUS)
    return compare.complete()


def april_gan(record: Record, folder: Path, released: Path | None = None) -> dict[str, Difference]:
    image, category = normalised(SIZE), ["metal_nut"] * NUM_PICTURES
    network = on_released_weights("april_gan", "ViT-known", folder, released)
    compare = Comparison(record, network, "april_gan", april_gan_names)
    with torch.no_grad():
        *taps, embedding = network.tapped(image)
        compare["tokens"] = torch.stack([tap[:, 1:] for tap in taps], dim=1)
        compare["image_embedding"] = embedding[:, 0]
        compare["text"] = network.text(["metal_nut"], torch.device("cpu")).stateful[0]
        prediction = network(image, category)
        compare["map"], compare["score"] = prediction.anomaly_map, prediction.image_score
    compare.positions("ViT-known")
    compare.loss("", image, category, torch.from_numpy(masks(SIZE)), IS_ANOMALOUS)
    return compare.complete()


def ada_clip(record: Record, folder: Path, released: Path | None = None) -> dict[str, Difference]:
    image, category = normalised(SIZE), ["metal_nut"] * NUM_PICTURES
    make = ("ada_clip", "ViT-known", folder, released)
    compare = Comparison(record, on_released_weights(*make), "ada_clip", released_tensors)
    network = compare.network
    seen: dict[str, list[Tensor]] = {"class": [], "patches": [], "text": []}
    network.class_projection.register_forward_hook(lambda *a: seen["class"].append(F.normalize(a[2], dim=-1)))
    for layer in network.patch_projections:
        layer.register_forward_hook(lambda *a: seen["patches"].append(F.normalize(a[2], dim=-1)))
    text = network.text
    network.text = lambda *a: seen["text"].append(text(*a)) or seen["text"][-1]
    with torch.no_grad():
        prediction = network(image, category)
    compare["image_embedding"], compare["tokens"] = seen["class"][0], torch.stack(seen["patches"], dim=1)
    compare["text"] = compare["half.text"] = seen["text"][0]
    compare["map"], compare["score"] = prediction.anomaly_map, prediction.image_score
    compare["half.map"], compare["half.score"] = prediction.anomaly_map, prediction.image_score
    by_seed = compare.read("score_by_seed_of_k_means")
    deviations = (prediction.image_score - by_seed.mean(dim=0)).abs() / by_seed.std(dim=0)
    compare.found["score, in standard deviations over seeds of k-means"] = Difference(float(deviations.max()), 1.0)
    unsmoothed = on_released_weights(*make, "module.network.scoring.smoothing_sigma=0.0")
    with torch.no_grad():
        compare["map_before_smoothing"] = unsmoothed(image, category).anomaly_map
    compare.positions("ViT-known")
    for kind, index in (("normal", 0), ("anomalous", 1)):
        one = slice(index, index + 1)
        compare.network = on_released_weights(*make)
        compare.loss(f"{kind}.", image[one], category[one], torch.from_numpy(masks(SIZE))[one], IS_ANOMALOUS[one])
    return compare.complete()


def af_clip(record: Record, folder: Path, released: Path | None = None) -> dict[str, Difference]:
    """Compare AF-CLIP, whose released weights are pickled modules that this project does not load."""
    image, category = normalised(SIZE), ["colon"] * NUM_PICTURES
    networks = {}
    for shots in (0, 1):
        towers = load_repeatable_towers("ViT-known-quickgelu", folder, (6, 12, 18, 24))
        networks[shots] = build_method("af_clip", towers, f"module.network.shots={shots}").eval()
        learned = af_clip_names(dict(networks[shots].named_parameters()))
        drawn = learned_state({name: value.shape for name, value in learned.items()})
        with torch.no_grad():
            for name, value in learned.items():
                value.copy_(drawn[name])
            networks[shots].adapter.norm.weight.mul_(AF_CLIP_NORM)
    compare = Comparison(record, networks[0], "af_clip", af_clip_names)
    with torch.no_grad():
        prediction = networks[0](image, category)
        compare["tokens"], compare["text"] = (
            prediction.patch_tokens,
            networks[0].text(["colon"], torch.device("cpu"))[0],
        )
        compare["class_score"] = compare["score"] = prediction.image_score
        networks[1].observe(image[:1], "colon")
        for prefix, network in (("", networks[0]), ("one_shot.", networks[1])):
            prediction = network(image, category)
            compare[f"{prefix}map"], compare[f"{prefix}score"] = prediction.anomaly_map, prediction.image_score
            network._scoring.smoothing_sigma = 0.0
            compare[f"{prefix}map_before_smoothing"] = network(image, category).anomaly_map
    compare.positions("ViT-known-quickgelu")
    compare.loss("", image, category, torch.from_numpy(masks(SIZE)), IS_ANOMALOUS)
    return compare.complete()


def aa_clip_names(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give AA-CLIP's parameters the names of its public code, where the text's last layer stands among its adapters."""
    last = sum(name.startswith("text_adapters.") for name in values)
    heads = {"text_projection": f"text_adapter.{last}", "image_projection": "image_adapter.det_proj"}
    lists = {
        "text_adapters": "text_adapter",
        "image_adapters": "image_adapter.layer_adapters",
        "patch_projections": "image_adapter.seg_proj",
    }
    found = {}
    for name, value in values.items():
        part, *rest = name.split(".")
        if part in heads:
            found[f"{heads[part]}.fc{'.0' if part == 'text_projection' else ''}.weight"] = value
        elif part in lists:
            found[f"{lists[part]}.{rest[0]}.fc{'' if part == 'patch_projections' else '.0'}.weight"] = value
    return found


def aa_clip(record: Record, folder: Path, released: Path | None = None) -> dict[str, Difference]:
    """Compare both stages of AA-CLIP, each with a step of its optimiser, and the scores before them."""
    image, category = normalised(SIZE), ["screw"] * NUM_PICTURES
    mask = torch.from_numpy(masks(SIZE))
    towers = load_repeatable_towers("ViT-known-quickgelu", folder, (6, 12, 18, 24))

    def made(*overrides: str) -> nn.Module:
        network = build_method("aa_clip", towers, *overrides).eval()
        learned = aa_clip_names(dict(network.named_parameters()))
        drawn = learned_state({name: value.shape for name, value in learned.items()})
        with torch.no_grad():
            for name, value in learned.items():
                value.copy_(drawn[name])
        return network

    of_classes = made("module.network.scoring.image_score=class_token")
    compare = Comparison(record, of_classes, "aa_clip", aa_clip_names)
    with torch.no_grad():
        prediction = of_classes(image, category)
        compare["map"], compare["class_score"] = prediction.anomaly_map, prediction.image_score
        compare["text"] = of_classes.text(["screw"], torch.device("cpu"))[0]
        all_taps = made("module.network.readout.all_taps=true").train()
        whole, *patches = (F.normalize(tokens, dim=-1) for tokens in all_taps._frozen_view(image))
        compare["text.tokens"] = torch.stack(patches, dim=1) + whole[:, None]
        compare["text.trained_maps"] = all_taps(image, category).trained_maps
    compare.positions("ViT-known-quickgelu")
    compare.network = made().train()
    seen: list[Tensor] = []
    for layer in compare.network.patch_projections:
        layer.register_forward_hook(lambda *a: seen.append(F.normalize(a[2], dim=-1)))
    without_maps = {name: value for name, value in record.items() if name != "text.trained_maps"}
    for stage, epoch in (("text", 0), ("image", 5)):
        compare.record = without_maps
        compare.network.begin_epoch(epoch)
        compare.loss(f"{stage}.", image, category, mask, IS_ANOMALOUS)
    compare["image.tokens"] = torch.stack(seen, dim=1)
    return compare.complete()


def visual_ad(record: Record, folder: Path, released: Path | None = None) -> dict[str, Difference]:
    """Compare VisualAD, of which nothing is dropped."""
    image, category = normalised(SIZE), ["colon"] * NUM_PICTURES
    taps = (6, 12, 18, 24)
    towers = load_repeatable_towers("ViT-known-quickgelu", folder, taps)

    def names(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return visual_ad_tensors(values, taps)

    def made(*overrides: str) -> nn.Module:
        given = [f"module.network.{override}" for override in ("dropout=0", *overrides)]
        if released is not None:
            return build_method("visual_ad", towers, f"module.network.released_weights={released}", *given)
        network = build_method("visual_ad", towers, *given)
        learned = names(dict(network.named_parameters()))
        drawn = learned_state({name: value.shape for name, value in learned.items()})
        for name, value in learned.items():
            value.copy_(drawn[name] * (VISUAL_AD_NORM if name.endswith(VISUAL_AD_NORMS) else 1))
        return network

    network = made().eval()
    compare = Comparison(record, network, "visual_ad", names)
    with torch.no_grad():
        prediction = network(image, category)
        compare["map"], compare["score"] = prediction.anomaly_map, prediction.image_score
        compare["map_before_smoothing"] = made("scoring.smoothing_sigma=0").eval()(image, category).anomaly_map
        network.train()
        seen: list[Tensor] = []
        hooks = [layer.register_forward_hook(lambda *a: seen.append(a[2])) for layer in network.transforms]
        compare["prototypes"] = F.normalize(network(image, category).prototypes, dim=-1)
        compare["tokens"] = torch.stack(seen, dim=1)
        for hook in hooks:
            hook.remove()
    compare.loss("", image, category, torch.from_numpy(masks(SIZE)), IS_ANOMALOUS)
    return compare.complete()


def adapt_clip_names(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give what AdaptCLIP learns, its batch norms' statistics included, the names of its public code."""
    layers = {"narrow": "fc.0", "norm": "fc.1", "wide": "fc.3"}
    lists = {"norms": "sharebn", "local": "local_adapter.0", "whole": "global_adapter.0"}
    adapters = {"image_adapter": "global_adapter", "patch_adapter": "local_adater"}
    found = {}
    if "context" in values:
        found["textual_learner.ctx_pos"], found["textual_learner.ctx_neg"] = values["context"][:, None, None]
    for name, value in values.items():
        part, *rest = name.split(".")
        if part not in (*adapters, "comparison"):
            continue
        kind = rest.pop()
        kind = {"mean": "running_mean", "variance": "running_var"}.get(kind, kind)
        if part in adapters:
            found[f"visual_learner.{adapters[part]}.{layers[rest[0]]}.{kind}"] = value
        else:
            found[f"pq_learner.{lists[rest[0]]}.{rest[1]}.{kind}"] = value
    return found


def adapt_clip(record: Record, folder: Path, released: Path | None = None) -> dict[str, Difference]:
    """Compare AdaptCLIP; what its batch norms know when it scores comes from one step."""
    image, category = normalised(SIZE), ["colon"] * NUM_PICTURES
    reference = image[:1].flip(3)
    towers = load_repeatable_towers("ViT-known-quickgelu", folder, (6, 12, 18, 24))
    network = build_method("adapt_clip", towers)
    learned = adapt_clip_names(dict(network.named_parameters()))
    drawn = learned_state({name: value.shape for name, value in learned.items()})
    compare = Comparison(record, network, "adapt_clip", adapt_clip_names)
    compare.reference = (reference.expand_as(image),)
    with torch.no_grad():
        for name, value in learned.items():
            value.copy_(drawn[name])
        before = {name: value.clone() for name, value in network.named_parameters() if not name.startswith("backbone.")}
        whole, *tokens = network.tapped(image)
        compare["image_embedding"], compare["tokens"] = whole[:, 0], torch.stack(tokens, dim=1)
        compare["text"] = network.text(["colon"], torch.device("cpu"))[0]
        compare["static_text"] = network._static(["object"], torch.device("cpu")).stateful[0]
    compare.positions("ViT-known-quickgelu")
    compare.loss("", image, category, torch.from_numpy(masks(SIZE)), IS_ANOMALOUS)
    for name, value in adapt_clip_names(dict(network.named_buffers())).items():
        compare[name] = value
    with torch.no_grad():
        for name, value in before.items():
            network.get_parameter(name).copy_(value)
        network.eval()
        for shots, prefix in ((0, ""), (1, "one_shot.")):
            network.shots = shots
            if shots:
                network.observe(reference, "colon")
            prediction = network(image, category)
            compare[f"{prefix}map"], compare[f"{prefix}score"] = prediction.anomaly_map, prediction.image_score
            network._scoring.smoothing_sigma = 0.0
            compare[f"{prefix}map_before_smoothing"] = network(image, category).anomaly_map
            network._scoring.smoothing_sigma = 4.0
    return compare.complete()


def winclip(
    record: Record, folder: Path, released: Path | None = None, *, shots: int = 0, anomalib: bool = False
) -> dict[str, Difference]:
    """Compare WinCLIP, which learns nothing and so has no released weights."""
    overrides = [f"module.network.shots={shots}", f"module.network.reference_tokens={'ln_post' if anomalib else 'raw'}"]
    image, category = normalised(WINDOW_SIZE), ["carpet"] * NUM_PICTURES
    towers = load_repeatable_towers("ViT-known-windows", folder, (1, 2, 4, 6))
    network = build_method("winclip", towers, *overrides)
    compare, backbone = Comparison(record, network), towers.backbone
    with torch.no_grad():
        embedded = backbone.embed(image)
        (tokens,) = backbone.tap(embedded, layers=[backbone.depth])
        compare["image_embedding"] = backbone.project(tokens[:, 0])
        compare["tokens"] = backbone.ln_post(tokens[:, 1:]) if anomalib else tokens[:, 1:]
        for size in (2, 3):
            positions = window_positions(backbone.grid_size, size)
            compare[f"windows_{size}"] = embed_windows(backbone, embedded.tokens, positions)
        compare["text"] = network.text(["carpet"], torch.device("cpu")).stateful[0]
        if network.shots:
            network.observe(image[:1], "carpet")
        prediction = network(image, category)
        compare["map"], compare["score"] = prediction.anomaly_map, prediction.image_score
    return compare.complete()


def losses(record: Record, folder: Path, released: Path | None = None) -> dict[str, Difference]:
    """Compare the loss terms and their gradients on hard logits, some of which saturate."""
    found: dict[str, Difference] = {}
    smoothed = partial(focal_loss, smoothing=1e-5)
    terms = {
        "focal": smoothed,
        "dice": dice_loss,
        "dice_of_rows": lambda p, mask: dice_loss(rows_as_images(p[:1]), rows_as_images(mask[:1])),
    }
    for term, function in terms.items():
        logits = hard_logits().requires_grad_()
        value = function(logits.sigmoid(), torch.from_numpy(masks(32)))
        (gradient,) = torch.autograd.grad(value, logits)
        found[f"{term} of hard logits"] = difference(value, record[term])
        one = difference(gradient, record[f"{term}.grad"])
        found[f"{term} of hard logits, relative gradients"] = Difference(one.largest / one.scale, 1.0)
    return found


def hard_logits() -> Tensor:
    """Draw one logit per pixel between -20 and 20; as float32 probabilities they go from 2e-9 to exactly 1."""
    return uniform("logits", (NUM_PICTURES, 32, 32), -20, 20)


METHODS: dict[str, Callable[..., dict[str, Difference]]] = {
    "losses": losses,
    "anomaly_clip": anomaly_clip,
    "april_gan": april_gan,
    "ada_clip": ada_clip,
    "af_clip": af_clip,
    "aa_clip": aa_clip,
    "visual_ad": visual_ad,
    "adapt_clip": adapt_clip,
    "winclip_z": winclip,
    "winclip_z_one_shot": partial(winclip, shots=1),
    "winclip_anomalib": partial(winclip, anomalib=True),
    "winclip_anomalib_one_shot": partial(winclip, shots=1, anomalib=True),
}
"""How to compare this project with each of the official runs."""

ROUNDING = 2e-6
"""What another order of float32 sums can change in 24 blocks, relative to the largest value or to 1."""

ALLOWED = {
    "map": 1e-5,  # a temperature of 0.01 enlarges differences between unit vectors, 1e-7, by 100
    "maps": 1e-5,
    "smoothing": 1e-5,
    "score": 1e-5,
    "loss.image": 2e-5,  # probabilities stay 1e-6 away from 0 and 1, which moves the logarithm of 0.05 by 2e-5
    "loss.focal": 1e-5,
    "half.text": 5e-4,  # the programs round learned tokens to the 11 bits of half precision, this project does not
    "half.map": 5e-4,
    "half.score": 5e-4,
    # Near 1, float32 steps of p are 6e-8. The programs hold 1 - p separately; here it is computed from p.
    "focal of hard logits": 1e-4,
    "focal of hard logits, relative gradients": 5e-3,
    "seeds of k-means": 2.5,
    "gradients, relative": 1e-4,  # of the largest of each tensor, whose terms nearly cancel
}
"""Larger tolerances by the end of the name, each with its reason."""


def assert_only_rounding(found: Mapping[str, Difference]) -> None:
    """Check that nothing differs by more than the order of float32 operations explains."""
    allowed = {name: ROUNDING * max(1.0, one.scale) for name, one in found.items()}
    for end, most in ALLOWED.items():
        allowed |= dict.fromkeys([name for name in found if name.endswith(end)], most)
    too_large = {name: (one, allowed[name]) for name, one in found.items() if not one.largest <= allowed[name]}
    assert not too_large
