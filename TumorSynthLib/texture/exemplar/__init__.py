"""Tissue made of the image's own voxels; numpy and scipy only."""
