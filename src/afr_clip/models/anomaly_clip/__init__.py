"""AnomalyCLIP: learn what normal and damaged mean for any object (Zhou et al., ICLR 2024, arXiv:2310.18961).

Two learned sentences are compared with patches from a local stream that attends by value. Unlike the published code, a
sum over taps is a mean, and learned tokens stay float32.
"""
