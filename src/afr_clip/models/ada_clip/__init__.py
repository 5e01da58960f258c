"""AdaCLIP: static and dynamic prompts in both CLIP towers, and a fused image score (Cao et al., ECCV 2024).

It follows the released code, which the published numbers come from. Unlike there, scores are float32, an image's score
does not depend on the images before it, and training reads one auxiliary dataset.
"""
