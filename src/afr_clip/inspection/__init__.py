"""From a scored map to a decision: regions, masks of what counts, and calibration."""
