"""The page on features is the one that its script writes."""

import write_features

from TumorSynthLib.radiomics.table import FEATURES


def test_the_page_is_current():
    assert write_features.PAGE.read_text(encoding="utf-8") == write_features.page(), (
        "run python Testing/write_features.py"
    )


def test_the_page_has_every_feature():
    page = write_features.page()
    assert all(f"`{feature.name}`" in page and feature.meaning in page for feature in FEATURES.values())
