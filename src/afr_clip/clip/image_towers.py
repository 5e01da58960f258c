"""Image towers behind one interface: one adapter for each library's way of building a ViT.

What stands for the class token in a tap, what embeds an image and how a patch is projected depends on the tower's pool:

- It reads out its class token (CLIP, MobileCLIP-B, EVA-02, DINOv2, DINOv3). The class token of the last block, through
  final norm and head, is the image embedding. A patch passes the same.
- It has an attention pool beside the class token (PE-Core). Taps have the class token. The pool over all tokens of the
  last block gives the image embedding.
- It has an attention pool and no class token (SigLIP). The pool over a tap's normalised patches takes the class token's
  place; after the last block that is the image embedding. AnomalyVFM reads SigLIP in this way.
- It averages patches and has no class token (ViTamin). The mean of a tap's patches takes the class token's place.

Where there is a pool, a patch is projected as if it alone were pooled. It then has all attention, so only the pool's
value path, output projection and MLP remain, as MaskCLIP (Zhou et al., ECCV 2022) does with the pool of CLIP's ResNets.
No tower was trained for that.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import global_pool_nlc
from timm.models.eva import Eva
from timm.models.eva import EvaBlockPostNorm as PostNormBlock
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn

from afr_clip.clip.fused import FusedAttention

Rotation = Tensor | None
"""What turns the queries and keys of patches by their place: sines, then cosines; ``None`` for learned positions."""


class ImageOnly(nn.Module):
    """A timm ViT without text, where other backbones have a whole CLIP."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk: Any = trunk


class ImageTower(ABC):
    """A ViT as a backbone sees it.

    Blocks see the tower's own prefix (class token and registers, either of which may be missing), then the patches row
    by row, then tokens that a method adds. It is no module: it has no weights of its own and follows its model.

    Attributes:
        blocks: The transformer blocks.
        token_dim: Width ``D_v`` of the tokens.
        embed_dim: Width ``D`` of image embeddings and projected patches.
        image_size: Side of the square input in pixels.
        grid_size: Patches ``(h, w)`` of an image.
        num_prefix: Tokens in front of the patches.
        mean: Per-channel mean that images are normalised with.
    """

    blocks: Any
    token_dim: int
    embed_dim: int
    image_size: int
    grid_size: tuple[int, int]
    num_prefix: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_patches(self) -> int:
        """How many patches an image has."""
        return self.grid_size[0] * self.grid_size[1]

    def patches(self, tokens: Float[Tensor, "batch tokens token_dim"]) -> Float[Tensor, "batch patches token_dim"]:
        """Leave out the prefix and added tokens."""
        return tokens[:, self.num_prefix : self.num_prefix + self.num_patches]

    @abstractmethod
    def embed(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens token_dim"]:
        """Turn images into what the first block sees."""

    @abstractmethod
    def embed_class_token(self, token: Float[Tensor, "tokens token_dim"]) -> Float[Tensor, "tokens token_dim"]:
        """Turn tokens of a method's own into what the first block sees, as the tower does with its class token."""

    def rotation(self, patches: Int[Tensor, "windows shown"] | None = None) -> Rotation:
        """Return what `block` needs to know of the patches' places.

        Args:
            patches: Which patches, counted from 0, each row of a batch shows; ``None`` for all.
        """
        return None

    @abstractmethod
    def block(self, number: int, tokens: Float[Tensor, "batch tokens token_dim"], rotation: Rotation) -> Tensor:
        """Run a block, counted from 1. Added tokens have no place and are not rotated, like the prefix."""

    @abstractmethod
    def by_value(self, number: int, tokens: Float[Tensor, "batch tokens token_dim"]) -> Tensor:
        """Compute what a block's attention adds to the tokens if values are their own queries and keys."""

    @abstractmethod
    def feed_forward(self, number: int, tokens: Float[Tensor, "batch tokens token_dim"]) -> Tensor:
        """Run the second half of a block, which follows its attention and looks at each token alone."""

    @abstractmethod
    def read_out(self, tokens: Float[Tensor, "batch tokens token_dim"]) -> Float[Tensor, "batch own_tokens token_dim"]:
        """Return the tap after a block: the class token, or what stands for it, and the patches."""

    @abstractmethod
    def norm(self, tokens: Float[Tensor, "*rows token_dim"]) -> Float[Tensor, "*rows token_dim"]:
        """Apply the final norm."""

    @abstractmethod
    def copied_norm(self) -> nn.Module:
        """Return a copy of the final norm that a method may train."""

    @abstractmethod
    def project(self, tokens: Float[Tensor, "*rows token_dim"]) -> Float[Tensor, "*rows embed_dim"]:
        """Bring tokens after the final norm into the shared space, each as if the image were it alone."""

    @abstractmethod
    def embed_image(
        self, tap: Float[Tensor, "batch own_tokens token_dim"], *, norm: bool = True
    ) -> Float[Tensor, "batch embed_dim"]:
        """Embed images as the library does, from the tap after the last block.

        Args:
            norm: Whether a class token passes the final norm; a pool was trained on normalised tokens and always
                gets them.
        """

    def embed_last(self, tokens: Float[Tensor, "batch tokens token_dim"], rotation: Rotation) -> Tensor:
        """Run the last block on images, or parts of them, of which only the embedding is read."""
        return self.embed_image(self.block(len(self.blocks), tokens, rotation))


class OpenCLIPTower(ImageTower):
    """open_clip's own ViT: always a class token, learned positions, a projection matrix.

    Args:
        visual: The image tower of an open_clip model.
    """

    num_prefix = 1

    def __init__(self, visual: Any) -> None:  # noqa: ANN401 - open_clip has no types
        self.visual = visual
        self.blocks = visual.transformer.resblocks
        self.token_dim = visual.transformer.width
        self.embed_dim = visual.output_dim
        self.image_size = visual.image_size[0]
        self.grid_size = tuple(visual.grid_size)
        self.mean, self.std = (tuple(visual.preprocess_cfg[key]) for key in ("mean", "std"))
        self._reads_class_token = visual.attn_pool is None and visual.pool_type == "tok"

    def embed(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens token_dim"]:
        """Turn images into what the first block sees."""
        return self.embed_patches(self.visual.conv1(image))

    def embed_patches(self, patches: Float[Tensor, "batch token_dim h w"]) -> Float[Tensor, "batch tokens token_dim"]:
        """Do what open_clip does, with patches that were embedded before."""
        visual = self.visual
        tokens = patches.flatten(2).transpose(1, 2)  # (B, N, D_v)
        class_token = visual.class_embedding.expand(patches.shape[0], 1, -1).to(tokens.dtype)
        tokens = torch.cat([class_token, tokens], dim=1) + visual.positional_embedding.to(tokens.dtype)
        return cast("Tensor", visual.ln_pre(visual.patch_dropout(tokens)))

    def embed_class_token(self, token: Float[Tensor, "tokens token_dim"]) -> Float[Tensor, "tokens token_dim"]:
        """Add the class token's position and apply ``ln_pre``."""
        visual = self.visual
        return cast("Tensor", visual.ln_pre(token + visual.positional_embedding[0].to(token.dtype)))

    def block(self, number: int, tokens: Float[Tensor, "batch tokens token_dim"], rotation: Rotation) -> Tensor:
        """Run a block, counted from 1."""
        return cast("Tensor", self.blocks[number - 1](tokens))

    def by_value(self, number: int, tokens: Float[Tensor, "batch tokens token_dim"]) -> Tensor:
        """Compute what a block's attention adds to the tokens if values are their own queries and keys."""
        block = self.blocks[number - 1]
        return cast("Tensor", block.ls_1(block.attn.by_value(block.ln_1(tokens))))

    def feed_forward(self, number: int, tokens: Float[Tensor, "batch tokens token_dim"]) -> Tensor:
        """Run the second half of a block, which follows its attention and looks at each token alone."""
        block = self.blocks[number - 1]
        return cast("Tensor", tokens + block.ls_2(block.mlp(block.ln_2(tokens))))

    def read_out(self, tokens: Float[Tensor, "batch tokens token_dim"]) -> Float[Tensor, "batch own_tokens token_dim"]:
        """Leave out added tokens."""
        return tokens[:, : 1 + self.num_patches]

    def norm(self, tokens: Float[Tensor, "*rows token_dim"]) -> Float[Tensor, "*rows token_dim"]:
        """Apply ``ln_post``."""
        return cast("Tensor", self.visual.ln_post(tokens))

    def copied_norm(self) -> nn.Module:
        """Return a copy of ``ln_post`` that a method may train."""
        return copy.deepcopy(cast("nn.Module", self.visual.ln_post)).requires_grad_(True)

    def project(self, tokens: Float[Tensor, "*rows token_dim"]) -> Float[Tensor, "*rows embed_dim"]:
        """Multiply by the projection matrix."""
        return cast("Tensor", tokens @ self.visual.proj)

    def embed_image(
        self, tap: Float[Tensor, "batch own_tokens token_dim"], *, norm: bool = True
    ) -> Float[Tensor, "batch embed_dim"]:
        """Embed images as open_clip does, from the tap after the last block."""
        if not self._reads_class_token:  # CLIPA averages patches
            return self.project(self.visual._pool(tap)[0])
        return self.project(self.norm(tap[:, 0]) if norm else tap[:, 0])

    def embed_last(self, tokens: Float[Tensor, "batch tokens token_dim"], rotation: Rotation) -> Tensor:
        """Compute only the class token in the last block, where nothing else is read."""
        last = self.blocks[-1]
        if not (self._reads_class_token and isinstance(last.attn, FusedAttention)):
            return super().embed_last(tokens, rotation)
        class_token = tokens[:, 0] + last.ls_1(last.attn.of_first(last.ln_1(tokens)))
        class_token = class_token + last.ls_2(last.mlp(last.ln_2(class_token)))
        return self.project(self.norm(class_token))


class TimmTower(ImageTower):
    """A ViT of timm, with the head that open_clip puts on it or alone.

    Its prefix, pool, norms and positions are read off the model, so SigLIP, PE-Core, MobileCLIP-B, EVA-02, ViTamin,
    DINOv2 and DINOv3 need no code of their own.

    Args:
        trunk: timm's model.
        head: What follows timm's own head.

    Raises:
        ValueError: If the model is no ViT with one row of tokens from first block to last, or pools registers.
    """

    def __init__(self, trunk: Any, head: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:  # noqa: ANN401
        if not isinstance(trunk, TimmViT | Eva):
            msg = (
                f"The image tower must be a plain ViT of timm (VisionTransformer or Eva), got {type(trunk).__name__}: "
                f"its patches do not keep one grid from block to block. Choose a ViT, for example PE-Core-L-14-336."
            )
            raise ValueError(msg)
        self.trunk: Any = trunk
        self.head = head
        self.blocks = trunk.blocks
        self.token_dim = trunk.embed_dim
        self.embed_dim = _width_out(trunk, head)
        self.grid_size = tuple(trunk.patch_embed.grid_size)
        self.image_size = trunk.patch_embed.img_size[0]
        self.num_prefix = trunk.num_prefix_tokens
        self.mean, self.std = tuple(mean), tuple(std)
        self._has_class_token = trunk.cls_token is not None
        # Eva pools its class token too, VisionTransformer only if it is told to.
        self._pools_prefix = isinstance(trunk, Eva) or trunk.pool_include_prefix
        if self._pools_prefix and trunk.attn_pool is not None and self.num_prefix > self._has_class_token:
            msg = (
                "The image tower must not pool its registers, which taps leave out, but this one does. Choose another "
                "architecture."
            )
            raise ValueError(msg)

    def embed(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens token_dim"]:
        """Turn images into what the first block sees."""
        placed = self.trunk._pos_embed(self.trunk.patch_embed(image))
        tokens = placed[0] if isinstance(placed, tuple) else placed  # Eva also returns the rotation
        return cast("Tensor", self.trunk.norm_pre(tokens))

    def embed_class_token(self, token: Float[Tensor, "tokens token_dim"]) -> Float[Tensor, "tokens token_dim"]:
        """Add the class token's position, where there is one, and apply the norm in front of the blocks."""
        trunk = self.trunk
        if self._has_class_token and trunk.pos_embed is not None and not trunk.no_embed_class:
            token = token + trunk.pos_embed[0, 0].to(token.dtype)
        return cast("Tensor", trunk.norm_pre(token))

    def rotation(self, patches: Int[Tensor, "windows shown"] | None = None) -> Rotation:
        """Return sines and cosines, ``(N, 2 d)``; for windows ``(windows, 1, shown, 2 d)``, the 1 for the heads.

        Where each block has its own, as in mixed rotary embeddings, the blocks come first, and heads differ.
        """
        rope = getattr(self.trunk, "rope", None)
        if rope is None:
            return None
        if self.trunk.dynamic_img_size or not hasattr(rope, "feat_shape"):
            rotation: Tensor = rope.get_embed(shape=list(self.grid_size))
        else:
            rotation = rope.get_embed()
        if patches is None:
            return rotation
        if rotation.ndim == 2:
            return rotation[patches][:, None]
        return rotation[:, :, patches].transpose(1, 2)  # (blocks, windows, heads, shown, 2 d)

    def block(self, number: int, tokens: Float[Tensor, "batch tokens token_dim"], rotation: Rotation) -> Tensor:
        """Run a block, counted from 1. Added tokens have no place and are not rotated, like the prefix."""
        block = self.blocks[number - 1]
        if rotation is None:
            return cast("Tensor", block(tokens))
        if getattr(self.trunk, "rope_mixed", False):
            rotation = rotation[number - 1]
        added = tokens.shape[1] - self.num_prefix - rotation.shape[-2]
        if added:
            dim = rotation.shape[-1] // 2
            still = torch.cat([rotation.new_zeros(dim), rotation.new_ones(dim)])  # sine 0, cosine 1
            rotation = torch.cat([rotation, still.expand(*rotation.shape[:-2], added, -1)], dim=-2)
        return cast("Tensor", block(tokens, rope=rotation))

    def by_value(self, number: int, tokens: Float[Tensor, "batch tokens token_dim"]) -> Tensor:
        """Compute what a block's attention adds to the tokens if values are their own queries and keys."""
        block = self.blocks[number - 1]
        if isinstance(block, PostNormBlock):
            return cast("Tensor", block.norm1(_values_attended(block.attn, tokens)))
        attended = _values_attended(block.attn, block.norm1(tokens))
        if isinstance(self.trunk, Eva):
            return attended if block.gamma_1 is None else block.gamma_1 * attended
        return cast("Tensor", block.ls1(attended))

    def feed_forward(self, number: int, tokens: Float[Tensor, "batch tokens token_dim"]) -> Tensor:
        """Run the second half of a block, which follows its attention and looks at each token alone."""
        block = self.blocks[number - 1]
        if isinstance(block, PostNormBlock):
            return cast("Tensor", tokens + block.norm2(block.mlp(tokens)))
        changed = block.mlp(block.norm2(tokens))
        if isinstance(self.trunk, Eva):
            return cast("Tensor", tokens + (changed if block.gamma_2 is None else block.gamma_2 * changed))
        return cast("Tensor", tokens + block.ls2(changed))

    def read_out(self, tokens: Float[Tensor, "batch tokens token_dim"]) -> Float[Tensor, "batch own_tokens token_dim"]:
        """Return the tap after a block: the class token, or what stands for it, and the patches."""
        patches = self.patches(tokens)
        if self._has_class_token:
            class_token = tokens[:, :1]
        elif self.trunk.attn_pool is not None:
            class_token = self.trunk.attn_pool(self.trunk.norm(patches))[:, None]
        else:
            class_token = patches.mean(dim=1, keepdim=True)
        return torch.cat([class_token.to(patches.dtype), patches], dim=1)

    def norm(self, tokens: Float[Tensor, "*rows token_dim"]) -> Float[Tensor, "*rows token_dim"]:
        """Apply the final norm, which some towers have in front of their pool and others behind it."""
        return cast("Tensor", self.trunk.fc_norm(self.trunk.norm(tokens)))

    def copied_norm(self) -> nn.Module:
        """Return a copy of the final norm that a method may train."""
        return copy.deepcopy(nn.Sequential(self.trunk.norm, self.trunk.fc_norm)).requires_grad_(True)

    def project(self, tokens: Float[Tensor, "*rows token_dim"]) -> Float[Tensor, "*rows embed_dim"]:
        """Bring tokens after the final norm into the shared space, each as if the image were it alone."""
        if self.trunk.attn_pool is not None:
            tokens = self.trunk.attn_pool(tokens.reshape(-1, 1, self.token_dim)).view(tokens.shape)
        return cast("Tensor", self.head(self.trunk.head(tokens)))

    def embed_image(
        self, tap: Float[Tensor, "batch own_tokens token_dim"], *, norm: bool = True
    ) -> Float[Tensor, "batch embed_dim"]:
        """Embed images as timm and open_clip do, from the tap after the last block."""
        trunk = self.trunk
        if trunk.attn_pool is None and trunk.global_pool == "token":
            return cast("Tensor", self.head(trunk.head(self.norm(tap[:, 0]) if norm else tap[:, 0])))
        tokens = trunk.norm(tap)
        if trunk.attn_pool is not None:
            pooled = trunk.attn_pool(tokens if self._pools_prefix and self._has_class_token else tokens[:, 1:])
        else:
            pooled = global_pool_nlc(tokens, trunk.global_pool, num_prefix_tokens=1)
        return cast("Tensor", self.head(trunk.head(trunk.fc_norm(pooled))))

    def embed_last(self, tokens: Float[Tensor, "batch tokens token_dim"], rotation: Rotation) -> Tensor:
        """Run the last block on images, or parts of them, of which only the embedding is read."""
        tokens = self.block(len(self.blocks), tokens, rotation)
        patches = tokens[:, self.num_prefix :]
        # Where there is no class token, the embedding does not read what stands for it.
        first = tokens[:, :1] if self._has_class_token else patches[:, :1]
        return self.embed_image(torch.cat([first, patches], dim=1))


def _width_out(trunk: Any, head: nn.Module) -> int:  # noqa: ANN401 - timm's models have few types
    """Return the width of what the heads give: that of the last layer that changes it."""
    layers = [layer for part in (trunk.head, head) for layer in part.modules() if isinstance(layer, nn.Linear)]
    return layers[-1].out_features if layers else int(trunk.embed_dim)


def _values_attended(attention: Any, tokens: Tensor) -> Tensor:  # noqa: ANN401
    """Let values attend to values with a timm attention's own weights."""
    dim = attention.num_heads * attention.head_dim
    if attention.qkv is None:
        values = attention.v_proj(tokens)
    else:
        bias = getattr(attention, "v_bias", None)  # EVA keeps the biases apart
        if bias is None and attention.qkv.bias is not None:
            bias = attention.qkv.bias[2 * dim :]
        values = F.linear(tokens, attention.qkv.weight[2 * dim :], bias)
    values = values.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)  # (B, heads, T, d)
    attended = F.scaled_dot_product_attention(values, values, values).transpose(1, 2).flatten(2)
    attended = attention.norm(attended)
    if (gate := getattr(attention, "gate", None)) is not None:
        attended = attended * gate(tokens).sigmoid()
    return cast("Tensor", attention.proj(attended))


def image_tower(clip: nn.Module) -> ImageTower:
    """Find the adapter for a model.

    Args:
        clip: An open_clip model, or a timm ViT as `ImageOnly`.

    Raises:
        ValueError: If no adapter fits its image tower.
    """
    visual: Any = getattr(clip, "visual", None)
    if isinstance(clip, ImageOnly):
        published = clip.trunk.pretrained_cfg
        return TimmTower(clip.trunk, nn.Identity(), published["mean"], published["std"])
    if isinstance(visual, TimmModel):
        return TimmTower(visual.trunk, visual.head, visual.preprocess_cfg["mean"], visual.preprocess_cfg["std"])
    if not isinstance(visual, VisionTransformer) or not visual.transformer.batch_first:
        msg = (
            f"The image tower, open_clip's or timm's, must be a VisionTransformer, got {type(visual).__name__}. "
            f"Choose a ViT architecture, for example ViT-L-14-336-quickgelu."
        )
        raise ValueError(msg)
    return OpenCLIPTower(visual)
