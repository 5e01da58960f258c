"""UniADet: learned weights in place of texts, apart for image and patches, and for every tap (arXiv:2601.05552).

Its authors have published no code. The header of ``conf/module/uni_adet.yaml`` says what was taken from where.
"""
