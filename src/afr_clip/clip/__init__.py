"""Frozen towers in; tokens, text embeddings and CNN features out. The only room that imports open_clip."""
