"""Edit tumours in CT and MR by their radiomics features (engine; knows nothing of Slicer)."""

__version__ = "0.3.0"
NOTICE = "For research use only; not for diagnosis."
