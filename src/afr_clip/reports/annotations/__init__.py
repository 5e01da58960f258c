"""Regions in the formats of annotation tools: one context manager per format, which yields what adds a photograph."""
