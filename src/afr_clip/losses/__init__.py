"""One pure function per term, and their weighted sum."""
