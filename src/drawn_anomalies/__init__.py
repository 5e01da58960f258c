"""Drawn datasets: textures and objects, defects with exact masks, soft light, from a seed."""
