"""AFR-CLIP: rectify the stateless text with what the image shows, then compare text with text (arXiv:2503.12910)."""
