"""Frozen CLIP, nothing trained: the plainest reference."""
