"""CoCoOp: CoOp's context, moved by what the image shows (Zhou et al., CVPR 2022, arXiv:2203.05557)."""
