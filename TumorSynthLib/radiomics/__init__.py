"""Radiomics features of a region, with the definitions of pyradiomics."""
