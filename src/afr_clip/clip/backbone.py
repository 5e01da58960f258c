"""The frozen towers, with tap layers and a hook in front of every block."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from afr_clip.clip.fused import fuse
from afr_clip.clip.image_towers import ImageTower, OpenCLIPTower, image_tower
from afr_clip.clip.settings import checked_tap_layers, default_tap_layers
from afr_clip.clip.stem import Seen, Stem

BeforeBlock = Callable[[int, Tensor], Tensor]
"""Gets a block's number (from 1) and its input tokens ``(B, T, D_v)``, returns what the block sees instead.

The image's own tokens are the class token and registers, as far as the tower has them, and then the patches. Tokens may
be added behind them; later blocks see them too, and the taps leave them out.
"""

TEXT_BATCH = 64
"""Sentences per forward pass of the text tower; bounds the memory of large prompt ensembles."""


class Embedded(NamedTuple):
    """Images on their way into the image tower.

    Attributes:
        tokens: What its first block sees: class token and registers, as far as it has them, and ``h * w`` patches.
        seen: What the stem saw; ``None`` without one.
    """

    tokens: Float[Tensor, "batch tokens token_dim"]
    seen: Seen | None


class CLIPBackbone(nn.Module):
    """Frozen towers that give tapped tokens and, if there is a text tower, text embeddings.

    Always in eval mode, and none of its parameters takes a gradient.

    Args:
        clip: An open_clip model whose image tower is a ViT of open_clip or timm, or a timm ViT without text.
        tokenizer: ``None`` without text.
        tap_layers: Blocks to read out, counted from 1; ``None`` spreads four over the depth.
        stem: The CNN in place of the patch embedding, whose view ``carry`` adds to every tap; ``None`` for the tower's
            own.

    Attributes:
        tower: The image tower's adapter; see `image_towers` for what its class token is.
        embed_dim: Width ``D`` of the shared embedding space.
        token_dim: Width ``D_v`` of the image tower's tokens.
        tap_dim: Width of a tap with what it carries.
        grid_size: Patches ``(h, w)`` of an image.
        image_size: Side of the square input in pixels.
        mean: Per-channel mean that the towers expect images to be normalised with.
        has_text: Whether there is a text tower.
        checkpointing: Whether blocks with a gradient keep only their input and are computed again in the backward pass:
            less memory, more time, the same numbers.

    Raises:
        ValueError: If the image tower is not such a ViT, or ``tap_layers`` do not fit its depth.
    """

    def __init__(
        self,
        clip: nn.Module,
        tokenizer: Callable[[Sequence[str]], Tensor] | None,
        tap_layers: Sequence[int] | None = None,
        stem: Stem | None = None,
    ) -> None:
        super().__init__()
        self.tower: ImageTower = image_tower(clip)
        fuse(clip)
        self.clip: Any = clip.requires_grad_(False)
        self._tokenizer = tokenizer
        self.has_text = tokenizer is not None
        self.depth: int = len(self.tower.blocks)
        self.tap_layers = (
            checked_tap_layers(tuple(tap_layers), self.depth) if tap_layers else default_tap_layers(self.depth)
        )
        self.embed_dim: int = self.tower.embed_dim
        self.token_dim: int = self.tower.token_dim
        self.stem = stem
        self.tap_dim: int = self.token_dim + (0 if stem is None else stem.dim)
        self.grid_size: tuple[int, int] = self.tower.grid_size
        self.image_size: int = self.tower.image_size
        self.mean: tuple[float, ...] = self.tower.mean
        self.std: tuple[float, ...] = self.tower.std
        self.checkpointing = False
        self.eval()

    def train(self, mode: bool = True) -> "CLIPBackbone":
        """Stay in eval mode: the towers are frozen."""
        return super().train(mode=False)

    @property
    def device(self) -> torch.device:
        """Where the towers are."""
        return next(self.clip.parameters()).device

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
        if self.stem is None:
            return Embedded(self.tower.embed(image), None)
        seen = self.stem.see(image)
        assert isinstance(self.tower, OpenCLIPTower), "a stem stands only in open_clip's own towers"
        return Embedded(self.tower.embed_patches(seen.patches), seen)

    def tap(
        self,
        image: Float[Tensor, "batch 3 height width"] | Embedded,
        before_block: BeforeBlock | None = None,
        *,
        layers: Sequence[int] | None = None,
        whole: bool = False,
    ) -> tuple[Float[Tensor, "batch tokens token_dim"], ...]:
        """Run the image tower and read its raw residual stream after each tap layer.

        Args:
            image: Normalised images of ``image_size``, or what ``embed`` made of them, for callers that need it too.
            before_block: Changes or adds tokens in front of chosen blocks.
            layers: Blocks to read out instead of ``tap_layers``, ascending.
            whole: Whether to return all tokens as blocks see them, with registers and added ones.

        Returns:
            Per tap layer the class token, or what stands for it in a tower without one, and the ``h * w`` patch tokens,
            neither normalised nor projected. Registers and added tokens are left out.

        Raises:
            ValueError: If the image has another size than the tower was built for.
        """
        tokens = (image if isinstance(image, Embedded) else self.embed(image)).tokens
        layers = self.tap_layers if layers is None else layers
        tower, rotation, taps = self.tower, self.tower.rotation(), []
        for number in range(1, layers[-1] + 1):
            if before_block is not None:
                tokens = before_block(number, tokens)
            if self.checkpointing and torch.is_grad_enabled() and tokens.requires_grad:
                # The hook stays outside: its result is an input of the block, kept and not computed again.
                tokens = checkpoint(tower.block, number, tokens, rotation, use_reentrant=False)
            else:
                tokens = tower.block(number, tokens, rotation)
            if number in layers:
                taps.append(tokens if whole else tower.read_out(tokens))
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
        """Apply the tower's final norm; the channels that taps carry stay as they are."""
        own, carried = tokens[..., : self.token_dim], tokens[..., self.token_dim :]
        normed = self.tower.norm(own)
        return torch.cat([normed, carried], dim=-1) if carried.shape[-1] else normed

    def project(self, tokens: Float[Tensor, "*rows token_dim"]) -> Float[Tensor, "*rows embed_dim"]:
        """Apply ``ln_post`` and the projection into the shared space, row by row; the result is not normalised.

        A patch is projected as if the image were that patch alone, so in CLIP like the class token, and in towers with
        a pool through the pool. For the image itself see ``embed_image``.
        """
        return self.tower.project(self.tower.norm(tokens))

    def embed_image(
        self, last: Float[Tensor, "batch tokens token_dim"], *, norm: bool = True
    ) -> Float[Tensor, "batch embed_dim"]:
        """Return the library's own image embedding, not normalised.

        Args:
            last: The tap after the last block.
            norm: Whether a class token passes ``ln_post``; the input of a pool always does.
        """
        return self.tower.embed_image(last, norm=norm)

    def token_ids(self, sentences: Sequence[str]) -> Int[Tensor, "sentences positions"]:
        """Turn sentences into token ids on the CPU, padded to the text tower's length.

        Raises:
            ValueError: If there is no text tower.
        """
        if self._tokenizer is None:
            msg = "This backbone has no text tower, so it reads no sentences. Choose one that has, like vit_l_14_336."
            raise ValueError(msg)
        with torch.device("cpu"):  # also where a network is built without memory for its weights
            return self._tokenizer(list(sentences))

    def tokenize(self, sentences: Sequence[str]) -> Int[Tensor, "sentences positions"]:
        """Turn sentences into token ids where the towers are."""
        return self.token_ids(sentences).to(self.device)

    def encode_text(self, sentences: Sequence[str]) -> Float[Tensor, "sentences embed_dim"]:
        """Embed sentences; the result is float32, not normalised, without a graph and usable in later training."""
        full_precision = torch.autocast(self.device.type, enabled=False)
        with torch.inference_mode(mode=False), torch.no_grad(), full_precision:
            ids = self.tokenize(sentences)
            return torch.cat([self.clip.encode_text(part).float() for part in ids.split(TEXT_BATCH)])
