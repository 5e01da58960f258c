"""One row per public dataset: how it lies on a disk, what it holds, where it comes from."""
