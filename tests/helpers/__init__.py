"""Builders and slow references that tests share."""
