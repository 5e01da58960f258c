"""CoOp: a learned context in front of "normal" or "anomalous" and the category (Zhou et al., arXiv:2109.01134)."""
