"""Inspection over HTTP: limits before decoding, batches with a bound on waiting, and a stop that finishes."""
