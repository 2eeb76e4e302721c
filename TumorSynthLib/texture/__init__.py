"""Texture of a tumour."""
