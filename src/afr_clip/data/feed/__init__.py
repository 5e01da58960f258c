"""From datasets on disk to batches."""
