"""APRIL-GAN: one linear layer per tap of frozen CLIP, compared with a prompt ensemble (Chen et al., arXiv:2305.17382).

Only the linear layers learn. Unlike in the published code, the map is the mean over the taps instead of their sum, so
that it stays a probability, and everything is computed in float32.
"""
