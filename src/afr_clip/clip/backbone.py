"""The frozen CLIP towers, with tap layers and a hook in front of every block."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from afr_clip.clip.fused import fuse
from afr_clip.clip.settings import checked_tap_layers, default_tap_layers
from afr_clip.clip.stem import Seen, Stem

BeforeBlock = Callable[[int, Tensor], Tensor]
"""Gets a block's number (from 1) and its input tokens ``(B, T, D_v)``, returns what the block sees instead.

Tokens may be added behind the class token and the patches; later blocks see them too, and the taps leave them out.
"""

TEXT_BATCH = 64
"""Sentences per forward pass of the text tower; bounds the memory of large prompt ensembles."""


class Embedded(NamedTuple):
    """Images on their way into the image tower.

    Attributes:
        tokens: What its first block sees: the class token and ``h * w`` patches.
        seen: What the stem saw; ``None`` for CLIP's own towers.
    """

    tokens: Float[Tensor, "batch tokens token_dim"]
    seen: Seen | None


class CLIPBackbone(nn.Module):
    """A frozen open_clip model that gives tapped tokens and text embeddings.

    Always in eval mode, and none of its parameters takes a gradient.

    Args:
        clip: Any open_clip model whose image tower is open_clip's own ViT.
        tap_layers: Blocks to read out, counted from 1; ``None`` spreads four over the depth.
        stem: The CNN in place of the patch embedding, whose view ``carry`` adds to every tap; ``None`` for CLIP's own
            towers.

    Attributes:
        embed_dim: Width ``D`` of the shared embedding space.
        token_dim: Width ``D_v`` of the image tower's tokens.
        tap_dim: Width of a tap with what it carries.
        grid_size: Patches ``(h, w)`` of an image.
        image_size: Side of the square input in pixels.
        mean: Per-channel mean that the towers expect images to be normalised with.
        checkpointing: Whether blocks with a gradient keep only their input and are computed again in the backward pass:
            less memory, more time, the same numbers.

    Raises:
        ValueError: If the image tower is not such a ViT, or ``tap_layers`` do not fit its depth.
    """

    def __init__(
        self,
        clip: nn.Module,
        tokenizer: Callable[[Sequence[str]], Tensor],
        tap_layers: Sequence[int] | None = None,
        stem: Stem | None = None,
    ) -> None:
        super().__init__()
        visual = getattr(clip, "visual", None)
        if not isinstance(visual, VisionTransformer) or not visual.transformer.batch_first:
            msg = (
                f"The image tower must be open_clip's own VisionTransformer, got {type(visual).__name__}. "
                f"Choose a ViT architecture, for example ViT-L-14-336-quickgelu."
            )
            raise ValueError(msg)
        fuse(clip)
        self.clip: Any = clip.requires_grad_(False)
        self._tokenizer = tokenizer
        self.depth: int = len(visual.transformer.resblocks)
        self.tap_layers = (
            checked_tap_layers(tuple(tap_layers), self.depth) if tap_layers else default_tap_layers(self.depth)
        )
        self.embed_dim: int = visual.output_dim
        self.token_dim: int = visual.transformer.width
        self.stem = stem
        self.tap_dim: int = self.token_dim + (0 if stem is None else stem.dim)
        self.grid_size: tuple[int, int] = tuple(visual.grid_size)
        self.image_size: int = visual.image_size[0]
        self.mean: tuple[float, ...] = tuple(visual.preprocess_cfg["mean"])
        self.std: tuple[float, ...] = tuple(visual.preprocess_cfg["std"])
        self.checkpointing = False
        self.eval()

    def train(self, mode: bool = True) -> "CLIPBackbone":
        """Stay in eval mode: the towers are frozen."""
        return super().train(mode=False)

    @property
    def device(self) -> torch.device:
        """Where the towers are."""
        return cast("torch.device", self.clip.logit_scale.device)

    def embed(self, image: Float[Tensor, "batch 3 height width"]) -> Embedded:
        """Turn normalised images into the tokens that the first block sees.

        Raises:
            ValueError: If the image has another size than the tower was built for.
        """
        if image.shape[-2:] != (self.image_size, self.image_size):
            msg = (
                f"Images must be {self.image_size} x {self.image_size} pixels for this backbone, got "
                f"{image.shape[-2]} x {image.shape[-1]}. Resize them, or set backbone.image_size."
            )
            raise ValueError(msg)
        visual = self.clip.visual
        seen = None if self.stem is None else self.stem.see(image)
        patches = visual.conv1(image) if seen is None else seen.patches
        # As open_clip does it, but with patches that may have been embedded before.
        tokens = patches.flatten(2).transpose(1, 2)  # (B, N, D_v)
        class_token = visual.class_embedding.expand(len(image), 1, -1).to(tokens.dtype)
        tokens = torch.cat([class_token, tokens], dim=1) + visual.positional_embedding.to(tokens.dtype)
        return Embedded(visual.ln_pre(visual.patch_dropout(tokens)), seen)

    def tap(
        self,
        image: Float[Tensor, "batch 3 height width"] | Embedded,
        before_block: BeforeBlock | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> tuple[Float[Tensor, "batch tokens token_dim"], ...]:
        """Run the image tower and read its raw residual stream after each tap layer.

        Args:
            image: Normalised images of ``image_size``, or what ``embed`` made of them, for callers that need it too.
            before_block: Changes or adds tokens in front of chosen blocks.
            layers: Blocks to read out instead of ``tap_layers``, ascending.

        Returns:
            Per tap layer the class token and the ``h * w`` patch tokens, neither normalised nor projected.

        Raises:
            ValueError: If the image has another size than the tower was built for.
        """
        tokens = (image if isinstance(image, Embedded) else self.embed(image)).tokens
        num_tokens = tokens.shape[1]
        layers = self.tap_layers if layers is None else layers
        taps = []
        for number, block in enumerate(self.clip.visual.transformer.resblocks[: layers[-1]], start=1):
            if before_block is not None:
                tokens = before_block(number, tokens)
            if self.checkpointing and torch.is_grad_enabled() and tokens.requires_grad:
                # The hook stays outside: its result is an input of the block, kept and not computed again.
                tokens = cast("Tensor", checkpoint(block, tokens, use_reentrant=False))
            else:
                tokens = block(tokens)
            if number in layers:
                taps.append(tokens[:, :num_tokens])
        return tuple(taps)

    def carry(
        self, taps: Sequence[Float[Tensor, "batch tokens token_dim"]], embedded: Embedded
    ) -> tuple[Float[Tensor, "batch tokens tap_dim"], ...]:
        """Append what the stem saw to the channels of every tap: a small tower forgets detail.

        For layers that learn to read it. Without a stem the taps stay as they are.
        """
        if embedded.seen is None:
            return tuple(taps)
        carried = embedded.seen.tokens()
        return tuple(torch.cat([tap, carried.to(tap.dtype)], dim=-1) for tap in taps)

    def ln_post(self, tokens: Float[Tensor, "*rows channels"]) -> Float[Tensor, "*rows channels"]:
        """Apply CLIP's final layer norm; the channels that taps carry stay as they are."""
        own, carried = tokens[..., : self.token_dim], tokens[..., self.token_dim :]
        normed = self.clip.visual.ln_post(own)
        return torch.cat([normed, carried], dim=-1) if carried.shape[-1] else normed

    def project(self, tokens: Float[Tensor, "*rows token_dim"]) -> Float[Tensor, "*rows embed_dim"]:
        """Apply ``ln_post`` and CLIP's projection into the shared space; the result is not normalised.

        The class token after the last block becomes CLIP's own image embedding.
        """
        return self.ln_post(tokens) @ self.clip.visual.proj

    def tokenize(self, sentences: Sequence[str]) -> Int[Tensor, "sentences positions"]:
        """Turn sentences into token ids, padded to the text tower's length and on its device."""
        return self._tokenizer(list(sentences)).to(self.device)

    def encode_text(self, sentences: Sequence[str]) -> Float[Tensor, "sentences embed_dim"]:
        """Embed sentences; the result is float32, not normalised, without a graph and usable in later training."""
        full_precision = torch.autocast(self.device.type, enabled=False)
        with torch.inference_mode(mode=False), torch.no_grad(), full_precision:
            ids = self.tokenize(sentences)
            return torch.cat([self.clip.encode_text(part).float() for part in ids.split(TEXT_BATCH)])
