"""Sentences as plain strings: templates, states and their expansion for a category."""
