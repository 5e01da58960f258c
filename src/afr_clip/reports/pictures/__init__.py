"""Maps, overlays and figures."""
