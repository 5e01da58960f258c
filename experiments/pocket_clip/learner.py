"""The towers in training, the layer that reads patches, and the contrast with captions."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pairs import MASK_SCALE, PATCH_SIZE
from torch import Tensor, nn


class Learner(nn.Module):
    """The towers and the layer that reads patches; AFR-CLIP trains its own, so the layer is discarded.

    Args:
        clip: Towers whose image tower takes what is seen of patches in place of images.
        tokenizer: Turns captions into token ids.
    """

    def __init__(self, clip: nn.Module, tokenizer: Callable[[Sequence[str]], Tensor]) -> None:
        super().__init__()
        self.clip = clip
        self._tokenizer = tokenizer
        self.local = nn.Linear(clip.visual.conv1.project.out_channels, clip.visual.output_dim)

    def forward(
        self, seen: Float[Tensor, "batch channels h w"], pool: int, through: Sequence[int] | slice = slice(None)
    ) -> tuple[Float[Tensor, "pictures dim"], Float[Tensor, "batch h w dim"]]:
        """Embed pictures and their patches in the space of the captions.

        Args:
            seen: What is seen of each patch.
            pool: The tower sees neighbouring patches averaged ``pool`` by ``pool``; 1 for every patch.
            through: Which pictures go through the tower's blocks; the embeddings of patches need none of them.

        Returns:
            Unit vectors: of these pictures, and of all patches.
        """
        visual = self.clip.visual
        patches = visual.conv1(seen)
        pooled = F.avg_pool2d(patches[through], pool).flatten(2).transpose(1, 2)  # (B, N / pool², D_v)
        place = visual.positional_embedding
        grid = place[1:].T.reshape(1, -1, *visual.grid_size)
        places = F.avg_pool2d(grid, pool).flatten(2).transpose(1, 2)
        first = (visual.class_embedding + place[0]).expand(len(pooled), 1, -1)
        tokens = visual.ln_pre(torch.cat([first, pooled + places], dim=1))
        image, _ = visual._pool(visual.transformer(tokens))
        return F.normalize(image @ visual.proj, dim=-1), F.normalize(self.local(patches.movedim(1, -1)), dim=-1)

    def texts(self, sentences: Sequence[str]) -> Float[Tensor, "sentences dim"]:
        """Embed captions as unit vectors; repeated captions are embedded once."""
        numbers: dict[str, int] = {}
        known = torch.tensor([numbers.setdefault(sentence, len(numbers)) for sentence in sentences])
        return F.normalize(self.clip.encode_text(self._tokenizer(list(numbers))), dim=-1)[known]

    def locate(
        self, patches: Float[Tensor, "batch h w dim"], towards: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch rows columns"]:
        """Return the logit of damage on the grid of the masks.

        Args:
            patches: Unit vectors.
            towards: Embedding of a flawed caption less that of a whole one.
        """
        logits = self.clip.logit_scale.exp() * torch.einsum("bhwd,bd->bhw", patches, towards)
        return F.interpolate(
            logits[:, None], scale_factor=PATCH_SIZE // MASK_SCALE, mode="bilinear", align_corners=False
        )[:, 0]


def contrast(
    images: Float[Tensor, "batch dim"],
    texts: Float[Tensor, "captions dim"],
    same: Float[Tensor, "batch captions"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Contrast every picture with all captions, and every caption that is right for some picture with all pictures.

    Args:
        images: Unit vectors.
        texts: Unit vectors; behind the pictures' own captions come captions of the opposite condition.
        same: 1 where a caption is a picture's own or reads the same.
        scale: Inverse temperature.

    Returns:
        The mean of both cross-entropies; captions that read the same share their weight.
    """
    logits = scale * images @ texts.T
    by_image = -(same / same.sum(dim=1, keepdim=True) * logits.log_softmax(dim=1)).sum(dim=1).mean()
    right = same.sum(dim=0) > 0
    by_text = -(same / same.sum(dim=0).clamp_min(1) * logits.log_softmax(dim=0)).sum(dim=0)[right].mean()
    return (by_image + by_text) / 2
