import torch
import torch.nn.functional as F

from afr_clip.clip.text import TextEmbeddings, encode_ensemble
from helpers.tiny import PROMPTS, tiny_network

CPU = torch.device("cpu")


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
        encode_ensemble(encoder, [f"a photo of a {said}"]) for said in ("screw", "normal screw", "defective screw")
    ]
    torch.testing.assert_close(torch.stack([row.stateless[0], *row.stateful[0]]), torch.stack(expected))


def test_an_ensemble_is_the_normalised_mean_of_normalised_embeddings():
    embeddings = torch.tensor([[10.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
    torch.testing.assert_close(
        encode_ensemble(lambda _: embeddings, ["a", "b"]), F.normalize(torch.tensor([1.0, 1.0, 0.0]), dim=0)
    )


def test_an_ensemble_of_embeddings_as_they_are_leans_towards_the_longest():
    embeddings = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    expected = torch.tensor([0.6, 0.8, 0.0])
    torch.testing.assert_close(encode_ensemble(lambda _: embeddings, ["a", "b"], normalise_first=False), expected)
    text = TextEmbeddings(lambda _: embeddings, PROMPTS, normalise_first=False)
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
