import torch
import torch.nn.functional as F

from afr_clip.clip.text import TextEmbeddings, encode_ensemble
from helpers.tiny import PROMPTS


class CountingEncoder:
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def __call__(self, sentences) -> torch.Tensor:
        self.sentences += sentences
        generator = torch.Generator().manual_seed(len("".join(sentences)))
        return torch.randn(len(sentences), 8, generator=generator)


def test_every_category_is_encoded_once():
    encoder = CountingEncoder()
    text = TextEmbeddings(encoder, 8, PROMPTS)
    first = text(["screw", "bottle", "screw"])
    again = text(["bottle", "screw"])
    assert len(encoder.sentences) == 6
    torch.testing.assert_close(first.stateless[0], first.stateless[2])
    torch.testing.assert_close(first.stateful[1], again.stateful[0])


def test_rows_are_stateless_then_normal_then_abnormal():
    encoder = CountingEncoder()
    text = TextEmbeddings(encoder, 8, PROMPTS)
    row = text(["screw"])
    expected = [
        encode_ensemble(encoder, [f"a photo of a {said}"]) for said in ("screw", "normal screw", "defective screw")
    ]
    torch.testing.assert_close(torch.stack([row.stateless[0], *row.stateful[0]]), torch.stack(expected))


def test_an_ensemble_is_the_normalised_mean_of_normalised_embeddings():
    embeddings = torch.tensor([[10.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
    torch.testing.assert_close(
        encode_ensemble(lambda _: embeddings, ["a", "b"]), F.normalize(torch.tensor([1.0, 1.0, 0.0]), dim=0)
    )


def test_the_bank_is_not_saved_and_moves_with_the_module():
    text = TextEmbeddings(CountingEncoder(), 8, PROMPTS)
    text(["screw"])
    assert not text.state_dict()
    assert text.to(torch.float64).bank.dtype == torch.float64


def test_embeddings_learned_while_scoring_can_train_later(towers):
    text = TextEmbeddings(towers.backbone.encode_text, 32, PROMPTS)
    with torch.inference_mode():
        text(["screw"])
    adapter = torch.nn.Linear(32, 32)
    adapter(text(["screw"]).stateful).sum().backward()
    assert adapter.weight.grad is not None
