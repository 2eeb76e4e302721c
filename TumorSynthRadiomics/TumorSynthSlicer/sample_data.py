"""Volumes for the tutorial, offered in the module Sample Data: public files, fixed by their commit and SHA-256.

lung1 and brain1 belong to pyradiomics (BSD licence), the sarcoma to the IBSI's copy of TCIA Soft-tissue-Sarcoma (CC BY 3.0;
Vallières et al. 2015); that patient is not among those that the bundled model was trained on.
"""

import os

PYRADIOMICS = (
    "https://raw.githubusercontent.com/AIM-Harvard/pyradiomics/8ed579383b44806651c463d5e691f3b2b57522ab/data/"
)
IBSI = "https://raw.githubusercontent.com/theibsi/data_sets/6da96021bc91faf4c0cb7fd7fa56a4225d2064a8/ibsi_validation/nifti/"
CATEGORY = "Tumor Synth Radiomics"
VOLUME, SEGMENTATION = "VolumeFile", "SegmentationFile"

#: Name: files of a volume and its segmentation, each (address, file name, node name, SHA-256).
SAMPLES = {
    "TumorSynthLung": (
        (
            PYRADIOMICS + "lung1_image.nrrd",
            "lung1_image.nrrd",
            "Lung CT",
            "379fa48bf34cfa961e6f5ec19c0c38757a30b9aa884212ef28dc29b5061c64ed",
        ),
        (
            PYRADIOMICS + "lung1_label.nrrd",
            "lung1_label.seg.nrrd",
            "Lung tumour",
            "e9d9a88054d7bc1d3034193ff907ce6b8c6ba28a7bc3a16f23728982d1b6b50a",
        ),
    ),
    "TumorSynthSarcoma": (
        (
            IBSI + "STS_036/MR_T1_image.nii.gz",
            "STS_036_T1_image.nii.gz",
            "Sarcoma T1",
            "af93580bd2990276a4c7f2f987a33235c68790d5dc3ab34acc0cfd51839633c8",
        ),
        (
            IBSI + "STS_036/MR_T1_mask.nii.gz",
            "STS_036_T1_mask.nii.gz",
            "Sarcoma",
            "bcb6ffad01e129ceff09ac67adb62dd649d85e35cf32bc478badc1d425575b45",
        ),
    ),
    "TumorSynthBrain": (
        (
            PYRADIOMICS + "brain1_image.nrrd",
            "brain1_image.nrrd",
            "Brain MR",
            "fffdb111ee8b428ede7256707393c927a7d5be912f0604cf3c6f1bd5fc9644cf",
        ),
        (
            PYRADIOMICS + "brain1_label.nrrd",
            "brain1_label.seg.nrrd",
            "Brain tumour",
            "ae6d8e6b84f7e99d68c210ee2fa6aaaefa0b2df0a84f55efca4feebe2b216059",
        ),
    ),
}


def register() -> None:
    """Register the samples; nothing is downloaded before the user asks for one."""
    import SampleData

    icons = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "Resources", "Icons")
    for name, files in SAMPLES.items():
        addresses, fileNames, nodeNames, hashes = zip(*files)
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=name,
            uris=list(addresses),
            fileNames=list(fileNames),
            nodeNames=list(nodeNames),
            checksums=["SHA256:" + digest for digest in hashes],
            loadFileTypes=[VOLUME, SEGMENTATION],
            loadFiles=[True, True],
            thumbnailFileName=os.path.join(icons, "TumorSynthRadiomics.png"),
        )
