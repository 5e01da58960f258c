"""Frozen CLIP compared with one normal and one abnormal sentence: the simplest reference.

Nothing is trained. What another method adds to CLIP is its gain over this one.
"""
