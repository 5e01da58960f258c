"""APRIL-GAN: one linear layer per tap of frozen CLIP, compared with a prompt ensemble."""
