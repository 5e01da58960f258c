"""CLIP-AD, its SDP+: a staged local path next to linear layers, and representative texts (arXiv:2311.00453)."""
