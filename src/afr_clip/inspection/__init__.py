"""From photographs to decisions: scored maps, tiles, references, calibration, regions."""
