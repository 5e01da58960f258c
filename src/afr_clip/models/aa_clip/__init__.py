"""AA-CLIP: text adapted first, then the image tower, each by small layers inside frozen towers (arXiv:2503.06661)."""
