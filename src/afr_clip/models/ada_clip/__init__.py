"""AdaCLIP (Cao et al., ECCV 2024): static and dynamic prompts in both towers, a fused image score."""
