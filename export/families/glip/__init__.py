"""GLIP (arXiv 2112.03857): a dense detector whose boxes are scored by the tokens of one caption.

GLIP-T and GLIP-L fuse text and image in the tower; GLIP-A does not, so all its text is computed offline.
"""
