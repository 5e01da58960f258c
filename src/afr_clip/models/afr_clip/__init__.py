"""AFR-CLIP: rectify the stateless text with what the image shows, then compare text with text (arXiv:2503.12910).

Linear adapters, CMFR and self prompting learn on one labelled dataset; CLIP and the CNN stay frozen. The paper leaves
loss, temperature and training schedule open; the choices here are documented in the settings and in ``conf/``.
"""
