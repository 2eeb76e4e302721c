"""What is to be done to a tumour, decided before a voxel is drawn."""
