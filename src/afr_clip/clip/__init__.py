"""Frozen towers in; tokens, text embeddings and CNN features out. The only package that imports open_clip."""
