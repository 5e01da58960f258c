"""The tables of the paper next to what was measured, from the ``results.json`` of runs alone."""
