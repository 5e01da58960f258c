"""AdaptCLIP: three adapters next to frozen CLIP, one of them for a normal reference image (arXiv:2505.09926)."""
