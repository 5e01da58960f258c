"""The simplest reference as a network: CLIP's own embeddings compared with its own text."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.text import TextEmbeddings
from afr_clip.models.last_block import compare_last_block, read_last_block
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import PromptSettings


class CLIPSimilarity(nn.Module):
    r"""Compare every token of the last block with a normal and an abnormal sentence; nothing is trained.

    ``ln_post`` and the projection make the class token CLIP's own image embedding; the patch tokens pass the same,
    although CLIP never trained them for it.

    .. math:: P_i = \mathrm{softmax}(\cos(\mathrm{Proj}(\mathrm{LN}(v_i)), F_t^{\{n,a\}}) / \tau)_a
    """

    def __init__(self, towers: Towers, prompts: PromptSettings, scoring: ScoringSettings) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        self.text = TextEmbeddings(self.backbone.encode_text, prompts)
        self._scoring = scoring

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size, each with its category in words.

        Raises:
            ValueError: If there is not one category per image.
        """
        require_one_name_each(image, category)
        stateful = self.text(category, image.device).stateful
        return compare_last_block(read_last_block(self.backbone, image), stateful, self.backbone, self._scoring)

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: none."""
        return set()
