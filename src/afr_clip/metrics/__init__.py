"""Image- and pixel-level metrics in constant memory, and the cross-dataset protocol."""
