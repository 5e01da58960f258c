"""The sentences of the methods: templates with one hole, states with one hole.

Sources: AFR-CLIP's own three sentences (arXiv:2503.12910, section CMFR); the ensembles of APRIL-GAN (arXiv:2305.17382)
and WinCLIP (CVPR 2023). WinCLIP's list here has 22 templates, without duplicates or full stops. The list of 21 that
zqhang/Accurate-WinCLIP-pytorch and anomalib use has full stops and one template twice, and is kept unchanged. AdaCLIP
(ECCV 2024) keeps APRIL-GAN's states and its first four templates. AA-CLIP (CVPR 2025) has sixteen short sentences.
CLIP-AD (arXiv:2311.00453) has states of its own and WinCLIP's 22 templates with full stops, as in its public code.
"""

SINGLE_TEMPLATES = ("a photo of a {}",)
SINGLE_NORMAL = ("normal {}",)
SINGLE_ABNORMAL = ("defective {}",)

ENSEMBLE_NORMAL = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
WINCLIP_ABNORMAL = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
APRIL_GAN_ABNORMAL = ("damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage")

WINCLIP_TEMPLATES = (
    "a cropped photo of the {}",
    "a cropped photo of a {}",
    "a close-up photo of a {}",
    "a close-up photo of the {}",
    "a bright photo of a {}",
    "a bright photo of the {}",
    "a dark photo of the {}",
    "a dark photo of a {}",
    "a jpeg corrupted photo of a {}",
    "a jpeg corrupted photo of the {}",
    "a blurry photo of the {}",
    "a blurry photo of a {}",
    "a photo of a {}",
    "a photo of the {}",
    "a photo of a small {}",
    "a photo of the small {}",
    "a photo of a large {}",
    "a photo of the large {}",
    "a photo of the {} for visual inspection",
    "a photo of a {} for visual inspection",
    "a photo of the {} for anomaly detection",
    "a photo of a {} for anomaly detection",
)

WINCLIP_21_TEMPLATES = tuple(
    f"{template.replace('jpeg corrupted photo of a', 'jpeg corrupted photo of the')}."
    for template in WINCLIP_TEMPLATES
    if template != "a cropped photo of a {}"
)
"""Two templates with ``a`` fewer, one with ``the`` twice, a full stop behind each."""

APRIL_GAN_TEMPLATES = (
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a photo of my {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a photo of one {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "a low resolution photo of a {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a photo of the small {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "a dark photo of a {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)

ADA_CLIP_TEMPLATES = APRIL_GAN_TEMPLATES[:4]

AA_CLIP_TEMPLATES = ("{}.", "a photo of {}.")
AA_CLIP_NORMAL = ("{}", "a {}", "the {}")
AA_CLIP_ABNORMAL = ("a damaged {}", "a broken {}", "a {} with flaw", "a {} with defect", "a {} with damage")

CLIP_AD_TEMPLATES = tuple(f"{template}." for template in WINCLIP_TEMPLATES)
CLIP_AD_NORMAL = (
    *ENSEMBLE_NORMAL[1:],
    "{} without scratch",
    "{} without crack",
    "{} without contamination",
)
CLIP_AD_ABNORMAL = (
    "damaged {}",
    "imperfect {}",
    "blemished {}",
    "broken {}",
    "{} with flaw",
    "{} with defect",
    "{} with damage",
    "{} with scratch",
    "{} with crack",
    "{} with contamination",
)
