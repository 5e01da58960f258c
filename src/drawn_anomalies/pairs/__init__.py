"""Pictures with captions and masks: materials and things, named or invented, whole or flawed, for pre-training."""
