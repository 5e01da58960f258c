"""VisualAD: two learned tokens inside a frozen image tower in place of texts (CVPR 2026, arXiv:2603.07952)."""
