"""One row per public dataset: its layout on disk, what it holds, and where it comes from."""
