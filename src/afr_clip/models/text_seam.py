"""Exchange the text that a network compares images with, without touching its forward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from afr_clip.clip.text import CategoryEmbeddings

Text = CategoryEmbeddings | Tensor
"""What a network compares with: stateless and stateful embeddings, or the stateful pair of each image alone."""

TextSource = Callable[[Sequence[str], Any], Text]
"""Returns the text of each image's category; the second argument depends on the network."""

Change = Callable[[TextSource], TextSource]
"""Turns a network's own source of text into another."""

SEAM = ("adapted_text", "text")
"""Attributes with a network's source of text; that behind a text adapter comes first."""


def has_text(network: nn.Module) -> bool:
    """Whether a network has a source of text that can be exchanged."""
    return any(callable(getattr(network, name, None)) for name in SEAM)


@contextmanager
def changed_text(network: nn.Module, change: Change) -> Iterator[None]:
    """Exchange the text of a network inside the block."""
    name = next(name for name in SEAM if callable(getattr(network, name, None)))
    own, is_method = getattr(network, name), name not in vars(network)
    setattr(network, name, change(own))
    try:
        yield
    finally:
        if is_method:
            delattr(network, name)  # uncovers the method of the class
        else:
            setattr(network, name, own)


def stateful_of(text: Text) -> Float[Tensor, "batch 2 dim"]:
    """Return the normal and the abnormal embedding of each image."""
    return text if isinstance(text, Tensor) else text.stateful


def without_stateless(own: TextSource) -> TextSource:
    """Set the stateless embedding to zero, in Eq. (3) as in Eq. (6)."""

    def source(category: Sequence[str], given: Any) -> Text:  # noqa: ANN401 - the network's own argument
        text = own(category, given)
        assert isinstance(text, CategoryEmbeddings), "only a network with a stateless embedding can lose it"
        return text._replace(stateless=torch.zeros_like(text.stateless))

    return source


def with_prototypes_swapped(own: TextSource) -> TextSource:
    """Swap the normal and the abnormal embedding."""

    def source(category: Sequence[str], given: Any) -> Text:  # noqa: ANN401
        text = own(category, given)
        swapped = stateful_of(text).flip(1)
        return swapped if isinstance(text, Tensor) else text._replace(stateful=swapped)

    return source


def named(rename: Callable[[str], str]) -> Change:
    """Give every image the text of another category."""
    return lambda own: lambda category, given: own([rename(name) for name in category], given)


def of_categories(names: Sequence[str], index: Int[Tensor, " batch"], known: dict[str, Text]) -> Change:
    """Give each image the text of the category that an index names.

    Args:
        names: The categories.
        index: Of each image's category among them.
        known: Texts by category; those that do not depend on the image are added, and not computed again.
    """

    def change(own: TextSource) -> TextSource:
        def text_of(name: str, given: Any) -> Text:  # noqa: ANN401 - the network's own argument
            if not isinstance(given, torch.device):
                return own([name], given)
            if name not in known:
                known[name] = own([name], given)
            return known[name]

        def chosen(texts: Sequence[Tensor]) -> Tensor:
            if len(texts) == 1:
                return texts[0].expand(index.shape[0], *texts[0].shape[1:])
            whole = torch.stack([text.expand(index.shape[0], *text.shape[1:]) for text in texts], dim=1)
            return whole[torch.arange(index.shape[0], device=index.device), index]

        def source(_: Sequence[str], given: Any) -> Text:  # noqa: ANN401
            texts = [text_of(name, given) for name in names]
            if isinstance(texts[0], Tensor):
                return chosen(texts)  # type: ignore[arg-type]  # all are of one kind
            return CategoryEmbeddings(*map(chosen, zip(*texts, strict=True)))

        return source

    return change
