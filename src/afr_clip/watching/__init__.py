"""Inspection of what arrives in a folder: each photograph once, whatever stops the process in between."""
