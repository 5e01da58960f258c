"""Pictures with captions: coloured materials and simple things, whole or flawed, for contrastive pre-training."""
