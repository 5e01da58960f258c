from pathlib import Path

import pytest
import torch

from afr_clip.clip.load import Towers
from afr_clip.models.anomaly_clip.network import AnomalyCLIP
from helpers.methods import build_method

WIDTH = 768
"""Of the text tower of ViT-L/14, for which the authors published weights."""


def published(width: int = WIDTH, num_deep: int = 8) -> dict[str, torch.Tensor]:
    """Tensors of exactly the names and shapes of a published checkpoint."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    state = {"ctx_pos": randn(1, 1, 12, width), "ctx_neg": randn(1, 1, 12, width)}
    for side in ("pos", "neg"):
        state[f"token_prefix_{side}"] = randn(1, 1, 1, width)
        state[f"token_suffix_{side}"] = randn(1, 1, 64, width)
        state[f"tokenized_prompts_{side}"] = torch.zeros(1, 1, 77, dtype=torch.int32)
    for index in range(num_deep):
        state[f"compound_prompts_text.{index}"] = randn(4, width)
        state[f"compound_prompt_projections.{index}.weight"] = torch.zeros(896, width)
        state[f"compound_prompt_projections.{index}.bias"] = torch.zeros(896)
    return state


def write(folder: Path, state: dict[str, torch.Tensor]) -> str:
    path = folder / "epoch_15.pth"
    torch.save({"prompt_learner": state}, path)
    return str(path)


def build(towers: Towers, path: str) -> AnomalyCLIP:
    return build_method("anomaly_clip", towers, f"module.network.released_weights='{path}'")


def test_a_published_file_fits_vit_l_14_word_by_word(large_towers, tmp_path):
    state = published()
    prompts = build(large_towers, write(tmp_path, state)).prompts
    assert torch.equal(prompts.context, torch.cat([state["ctx_pos"][0], state["ctx_neg"][0]]))
    for index, deep in enumerate(prompts.deep):
        assert torch.equal(deep, state[f"compound_prompts_text.{index}"])


def test_a_file_of_half_precision_is_read_as_float32(towers, tmp_path):
    state = {name: value.half() if value.is_floating_point() else value for name, value in published(32, 1).items()}
    prompts = build(towers, write(tmp_path, state)).prompts
    assert prompts.context.dtype == torch.float32
    assert torch.equal(prompts.context[0], state["ctx_pos"][0, 0].float())


def test_what_was_never_used_may_be_missing(towers, tmp_path):
    state = {name: value for name, value in published(32, 1).items() if name.startswith(("ctx", "compound_prompts"))}
    prompts = build(towers, write(tmp_path, state)).prompts
    assert torch.equal(prompts.deep[0], state["compound_prompts_text.0"])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"ctx_neg": None}, "1 missing, 0 unexpected and 0 differently shaped tensors, for example ctx_neg"),
        (
            {"compound_prompts_text.3": None},
            "1 missing, 0 unexpected and 0 differently shaped tensors, for example comp",
        ),
        (
            {"compound_prompts_text.8": (4, WIDTH)},
            "0 missing, 1 unexpected and 0 differently shaped tensors, for example comp",
        ),
        ({"token_prefix": (1,)}, "0 missing, 1 unexpected and 0 differently shaped tensors, for example token_prefix"),
        (
            {"ctx_pos": (1, 1, 16, WIDTH)},
            "0 missing, 0 unexpected and 1 differently shaped tensors, for example ctx_pos",
        ),
        ({"ctx_pos": (12, WIDTH)}, "0 missing, 0 unexpected and 1 differently shaped tensors, for example ctx_pos"),
    ],
    ids=str,
)
def test_a_file_with_a_tensor_missing_left_over_or_of_another_shape_is_refused(large_towers, tmp_path, change, fault):
    state = published()
    for name, shape in change.items():
        state = {key: value for key, value in state.items() if key != name}
        state |= {} if shape is None else {name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=f"does not fit the chosen method: {fault}"):
        build(large_towers, write(tmp_path, state))


def test_a_published_file_does_not_fit_another_text_tower(towers, tmp_path):
    with pytest.raises(ValueError, match=": 0 missing, 7 unexpected and 3 differently shaped"):
        build(towers, write(tmp_path, published()))


def test_a_path_without_a_file_is_refused(towers, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weight file at .*nowhere\.pth"):
        build(towers, str(tmp_path / "nowhere.pth"))
