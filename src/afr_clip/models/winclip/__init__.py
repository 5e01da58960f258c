"""WinCLIP: compare an image and all its small windows with prompt ensembles (Jeong et al., CVPR 2023).

Nothing is trained; with a few normal images it also compares with those (WinCLIP+). There is no official code: where
the paper leaves a choice open, this follows the public re-implementation closest to its numbers.
"""
