"""Shape of a tumour."""
