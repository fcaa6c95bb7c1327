"""Does a bundle fit a site? What images look like, to a camera and to the detector, here and where it was proven."""
