"""AF-CLIP: one attention adapter over taps averaged at three scales, against two sentences (arXiv:2507.19949)."""
