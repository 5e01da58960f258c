from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from afr_clip.clip.load import Towers
from afr_clip.clip.text import TextEmbeddings, TextTower, Words, ensemble_mean
from helpers.tiny import PROMPTS, tiny_network, tiny_towers

CPU = torch.device("cpu")
SENTENCES = [
    "a photo of a screw",
    "damaged object.",
    "a close-up photo of the flawless metal nut for visual inspection",
]


class CountingEncoder:
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def __call__(self, sentences) -> torch.Tensor:
        self.sentences += sentences
        generator = torch.Generator().manual_seed(len("".join(sentences)))
        return torch.randn(len(sentences), 8, generator=generator)


def test_every_category_is_encoded_once():
    encoder = CountingEncoder()
    text = TextEmbeddings(encoder, PROMPTS)
    first = text(["screw", "bottle", "screw"], CPU)
    again = text(["bottle", "screw"], CPU)
    assert len(encoder.sentences) == 6
    torch.testing.assert_close(first.stateless[0], first.stateless[2])
    torch.testing.assert_close(first.stateful[1], again.stateful[0])


def test_rows_are_stateless_then_normal_then_abnormal():
    encoder = CountingEncoder()
    text = TextEmbeddings(encoder, PROMPTS)
    row = text(["screw"], CPU)
    expected = [
        ensemble_mean(encoder([f"a photo of a {said}"])) for said in ("screw", "normal screw", "defective screw")
    ]
    torch.testing.assert_close(torch.stack([row.stateless[0], *row.stateful[0]]), torch.stack(expected))


def test_an_ensemble_is_the_normalised_mean_of_normalised_embeddings():
    embeddings = torch.tensor([[10.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
    torch.testing.assert_close(ensemble_mean(embeddings), F.normalize(torch.tensor([1.0, 1.0, 0.0]), dim=0))


def test_an_ensemble_of_embeddings_as_they_are_leans_towards_the_longest():
    embeddings = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    expected = torch.tensor([0.6, 0.8, 0.0])
    torch.testing.assert_close(ensemble_mean(embeddings, normalise_first=False), expected)
    text = TextEmbeddings(lambda _: embeddings, PROMPTS, combine=partial(ensemble_mean, normalise_first=False))
    torch.testing.assert_close(text(["screw"], CPU).stateful[0], expected.expand(2, 3))


def test_embeddings_are_neither_saved_nor_shared_between_processes(towers):
    network = tiny_network(towers)
    names = {name for name, _ in network.named_buffers()} | set(network.state_dict())
    network.text(["screw"], CPU)
    assert {name for name, _ in network.named_buffers()} | set(network.state_dict()) == names


def test_embeddings_go_where_they_are_needed():
    text = TextEmbeddings(CountingEncoder(), PROMPTS)
    text(["screw"], CPU)
    assert text(["screw", "bottle"], torch.device("meta")).stateful.device.type == "meta"


def test_embeddings_do_not_depend_on_the_precision_of_the_step_that_needs_them(towers):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = towers.backbone.encode_text(["a photo of a screw"])
    torch.testing.assert_close(mixed, towers.backbone.encode_text(["a photo of a screw"]), rtol=0, atol=0)


def test_embeddings_learned_while_scoring_can_train_later(towers):
    text = TextEmbeddings(towers.backbone.encode_text, PROMPTS)
    with torch.inference_mode():
        text(["screw"], CPU)
    adapter = torch.nn.Linear(32, 32)
    adapter(text(["screw"], CPU).stateful).sum().backward()
    assert adapter.weight.grad is not None


@pytest.fixture
def tower(towers: Towers) -> TextTower:
    return TextTower(towers.backbone)


def test_with_nothing_put_in_it_is_clips_own_encode_text(towers, tower):
    words = tower.look_up(SENTENCES)
    with torch.no_grad():
        expected = towers.backbone.clip.encode_text(towers.backbone.tokenize(SENTENCES))
    torch.testing.assert_close(tower.encode(words), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(tower.encode(words), towers.backbone.encode_text(SENTENCES), atol=1e-5, rtol=0)


def test_words_are_the_tokens_of_a_sentence_and_end_where_it_ends(tower):
    words = tower.look_up(["screw", "a screw."])
    assert words.embeddings.shape == (2, 77, tower.width)
    assert words.ends.tolist() == [2, 4]  # behind the start-of-text come 1 and 3 words
    torch.testing.assert_close(words.embeddings[0, 1], words.embeddings[1, 2])  # "screw", without its position


def test_the_seam_sees_every_block_once_and_no_position_behind_the_last_end(tower):
    seen = []
    words = tower.look_up(SENTENCES)
    tower.encode(words, lambda number, tokens: seen.append((number, tuple(tokens.shape))) or tokens)
    shape = (3, int(words.ends.max()) + 1, tower.width)
    assert seen == [(number, shape) for number in range(1, tower.depth + 1)]


def test_positions_are_overwritten_only_where_the_seam_says(towers, tower):
    """Against CLIP's own blocks over all 77 positions, the second block's input overwritten by hand."""
    learned, clip = torch.randn(2, tower.width), towers.backbone.clip
    words = tower.look_up(SENTENCES)

    def overwrite(number: int, tokens: Tensor) -> Tensor:
        if number != 2:
            return tokens
        return torch.cat([tokens[:, :1], learned.expand(len(tokens), -1, -1), tokens[:, 3:]], dim=1)

    with torch.no_grad():
        tokens = clip.transformer.resblocks[0](
            words.embeddings + clip.positional_embedding, attn_mask=clip.attn_mask
        ).clone()
        tokens[:, 1:3] = learned
        tokens = clip.ln_final(clip.transformer.resblocks[1](tokens, attn_mask=clip.attn_mask))
        expected = torch.stack([tokens[row, end] for row, end in enumerate(words.ends)]) @ clip.text_projection
    torch.testing.assert_close(tower.encode(words, overwrite), expected, atol=1e-5, rtol=0)


def test_the_gradient_reaches_what_is_put_in_and_not_the_tower(towers, tower):
    words = tower.look_up(SENTENCES)
    learned = torch.zeros(1, tower.width, requires_grad=True)
    deep = torch.zeros(tower.width, requires_grad=True)
    exchanged = torch.cat(
        [words.embeddings[:, :1], learned.expand(len(SENTENCES), 1, -1), words.embeddings[:, 2:]], dim=1
    )
    tower.encode(
        replace(words, embeddings=exchanged), lambda number, tokens: tokens + deep if number == 2 else tokens
    ).sum().backward()
    assert learned.grad.norm() > 0
    assert deep.grad.norm() > 0
    assert all(parameter.grad is None for parameter in towers.backbone.parameters())


def test_words_looked_up_while_scoring_serve_later_training(tower):
    with torch.inference_mode():
        words = tower.look_up(SENTENCES)
    shift = torch.zeros(tower.width, requires_grad=True)
    tower.encode(replace(words, embeddings=words.embeddings + shift)).sum().backward()
    assert shift.grad.norm() > 0


def test_image_specific_sentences_are_all_sentences_of_each_image_in_turn(tower):
    words, shifts = tower.look_up(SENTENCES), torch.randn(2, tower.width)

    def shifted(by: Tensor) -> Tensor:
        return tower.encode(words, lambda number, tokens: tokens + by if number == 2 else tokens)

    rows = shifts.repeat_interleave(len(SENTENCES), dim=0)[:, None]
    together = tower.encode(words.repeated(2), lambda number, tokens: tokens + rows if number == 2 else tokens)
    torch.testing.assert_close(together, torch.cat([shifted(shift) for shift in shifts]), atol=1e-5, rtol=0)


def test_sentences_do_not_depend_on_what_they_are_batched_with(tower):
    together = tower.encode(tower.look_up(SENTENCES))
    alone = torch.cat([tower.encode(tower.look_up([sentence])) for sentence in SENTENCES])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_repeating_once_changes_nothing(tower):
    words: Words = tower.look_up(SENTENCES)
    assert torch.equal(words.repeated(1).embeddings, words.embeddings)
    assert torch.equal(words.repeated(1).ends, words.ends)


@pytest.mark.parametrize("fault", ["another model", "no causal mask"])
def test_a_tower_that_is_not_open_clips_own_is_refused(fault):
    backbone = tiny_towers().backbone
    if fault == "another model":
        backbone.clip = torch.nn.Identity()
    else:
        backbone.clip.attn_mask = None
    with pytest.raises(ValueError, match=r"open_clip's own CLIP with its causal mask, got (Identity|CLIP) with other"):
        TextTower(backbone)
