"""The feature table: name, class, unit, meaning, role and size dependence of every feature, in one place.

Units: 'intensity' stands for the unit of the image (HU in CT, none in MR), 'level' for grey levels, i.e. bins
of the discretised image.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from ..errors import InputError


@dataclass(frozen=True)
class Feature:
    """One feature.

    name: pyradiomics' full name; cls: its class; short: its name in the class.
    unit: template, see the module. meaning: one sentence.
    role: 'driver' (a slider) or 'derived'.
    size: 'free', 'grows' or 'shrinks': what a larger region of the same texture and shape has.
    growth: exponent of the number of voxels in that, 0 where free. It follows from the formula where that
        is possible; for zones, Busyness and Strength it was measured on Gaussian random fields of 2,000 to
        80,000 voxels. Free features that depend on the extremes or on the numbering of grey levels, which
        counts from the lowest bin of the region, still drift slowly.
    steered: whether texture or shape generation takes it as a condition (the paper's 74 + 17 features).
    """

    name: str
    cls: str
    short: str
    unit: str
    meaning: str
    role: str
    size: str
    growth: float
    steered: bool


# Drivers under the names and units that a clinician uses: alias -> (feature, value of one alias unit).
DRIVERS: dict[str, tuple[str, float]] = {
    "volume_ml": ("original_shape_MeshVolume", 1000.0),
    "surface_cm2": ("original_shape_SurfaceArea", 100.0),
    "max_diameter_mm": ("original_shape_Maximum3DDiameter", 1.0),
    "sphericity": ("original_shape_Sphericity", 1.0),
    "elongation": ("original_shape_Elongation", 1.0),
    "flatness": ("original_shape_Flatness", 1.0),
    "mean_intensity": ("original_firstorder_Mean", 1.0),
    "intensity_sd": ("original_firstorder_StandardDeviation", 1.0),
    "skewness": ("original_firstorder_Skewness", 1.0),
    "kurtosis": ("original_firstorder_Kurtosis", 1.0),
    "p10": ("original_firstorder_10Percentile", 1.0),
    "p90": ("original_firstorder_90Percentile", 1.0),
    "entropy": ("original_firstorder_Entropy", 1.0),
    "contrast": ("original_glcm_Contrast", 1.0),
    "correlation": ("original_glcm_Correlation", 1.0),
}

STEERED_CLASSES = ("shape", "firstorder", "glcm", "glrlm", "glszm")

# class: rows "short name | unit | meaning [| size growth]"; size is 'free' where it isn't given.
_ROWS = {
    "shape": """
MeshVolume | mm³ | Volume enclosed by the smooth surface of the tumour. | grows 1
VoxelVolume | mm³ | Volume as the number of voxels times the volume of one. | grows 1
SurfaceArea | mm² | Area of the tumour's surface. | grows 0.667
SurfaceVolumeRatio | 1/mm | Surface per volume; low for a compact, large tumour. | shrinks -0.333
Sphericity | 1 | Roundness: 1 for a ball, lower the more lobed or stretched the tumour is.
Compactness1 | 1 | Compactness from volume and surface; 0.053 for a ball; another form of Sphericity.
Compactness2 | 1 | Sphericity to the power of three: 1 for a ball.
SphericalDisproportion | 1 | Surface relative to that of a ball of the same volume: 1 for a ball, higher else.
Maximum3DDiameter | mm | Largest distance between two points of the surface. | grows 0.333
Maximum2DDiameterSlice | mm | Largest diameter within one axial slice, as measured for RECIST. | grows 0.333
Maximum2DDiameterColumn | mm | Largest diameter within one coronal plane. | grows 0.333
Maximum2DDiameterRow | mm | Largest diameter within one sagittal plane. | grows 0.333
MajorAxisLength | mm | Length of the ellipsoid that fits the tumour. | grows 0.333
MinorAxisLength | mm | Width of the ellipsoid that fits the tumour. | grows 0.333
LeastAxisLength | mm | Thickness of the ellipsoid that fits the tumour. | grows 0.333
Elongation | 1 | Width relative to length: 1 if both are equal, near 0 for a line.
Flatness | 1 | Thickness relative to length: 1 for a ball, near 0 for a disc or a line.
""",
    "firstorder": """
Energy | intensity² | Sum of the squared intensities; mostly a measure of size. | grows 1
TotalEnergy | intensity²·mm³ | Energy times the volume of a voxel. | grows 1
Entropy | bit | How many different intensities there are and how evenly they occur.
Minimum | intensity | Lowest intensity; falls slowly as more voxels are looked at.
10Percentile | intensity | Intensity below which the darkest tenth of the tumour lies.
90Percentile | intensity | Intensity above which the brightest tenth of the tumour lies.
Maximum | intensity | Highest intensity; rises slowly as more voxels are looked at.
Mean | intensity | Mean intensity of the tumour.
Median | intensity | Intensity that half of the tumour exceeds.
InterquartileRange | intensity | Width of the middle half of the intensities.
Range | intensity | Difference between highest and lowest intensity.
MeanAbsoluteDeviation | intensity | Mean distance of the intensities from their mean.
RobustMeanAbsoluteDeviation | intensity | The same without the darkest and the brightest tenth.
RootMeanSquared | intensity | Root of the mean squared intensity; joins mean and spread.
StandardDeviation | intensity | How far the intensities spread around their mean.
Skewness | 1 | Asymmetry of the intensities: above 0 with a tail of bright voxels, below 0 with dark ones.
Kurtosis | 1 | Weight of extreme intensities: 3 for a normal distribution, higher with outliers.
Variance | intensity² | Square of the standard deviation.
Uniformity | 1 | Near 1 if almost all voxels have about the same intensity, low if they differ.
""",
    "glcm": """
Autocorrelation | level² | Mean product of the grey levels of neighbouring voxels.
JointAverage | level | Mean grey level of neighbouring voxels.
ClusterProminence | level⁴ | Weight of bright and dark patches that are far from the mean.
ClusterShade | level³ | Whether bright patches (above 0) or dark patches (below 0) stand out.
ClusterTendency | level² | How strongly neighbours group into bright and dark patches.
Contrast | level² | Mean squared difference between neighbouring voxels: high if grainy, low if smooth.
Correlation | 1 | Likeness of neighbours: near 1 for large smooth structures, near 0 for noise.
DifferenceAverage | level | Mean difference between neighbouring voxels.
DifferenceEntropy | bit | Variety of the differences between neighbouring voxels.
DifferenceVariance | level² | Spread of the differences between neighbouring voxels.
JointEnergy | 1 | High if a few pairs of neighbouring grey levels prevail.
JointEntropy | bit | Variety of pairs of neighbouring grey levels.
Imc1 | 1 | How much a voxel tells about its neighbour: 0 nothing, -1 everything.
Imc2 | 1 | How much a voxel tells about its neighbour: 0 nothing, towards 1 everything.
Idm | 1 | Local homogeneity: 1 if all neighbours are equal.
MCC | 1 | Strongest dependence between neighbours: 0 for none, 1 for full.
Idmn | 1 | Local homogeneity relative to the number of grey levels.
Id | 1 | Local homogeneity, with less weight on equal neighbours than Idm.
Idn | 1 | Local homogeneity relative to the number of grey levels, with weights as Id.
InverseVariance | 1 | High if neighbours differ, but little.
MaximumProbability | 1 | Share of the most frequent pair of neighbouring grey levels.
SumAverage | level | Mean sum of neighbouring grey levels: twice JointAverage.
SumEntropy | bit | Variety of the sums of neighbouring grey levels.
SumSquares | level² | Spread of the grey levels of neighbouring voxels.
""",
    "glrlm": """
GrayLevelNonUniformity | runs | Unevenness of grey levels over runs. | grows 1
GrayLevelNonUniformityNormalized | 1 | Unevenness of grey levels over runs: low if all are as frequent.
GrayLevelVariance | level² | Spread of the grey levels of runs.
HighGrayLevelRunEmphasis | level² | Prevalence of bright runs.
LongRunEmphasis | voxel² | Prevalence of long lines of equal grey level: coarse texture.
LongRunHighGrayLevelEmphasis | level²·voxel² | Prevalence of long bright lines.
LongRunLowGrayLevelEmphasis | voxel²/level² | Prevalence of long dark lines.
LowGrayLevelRunEmphasis | 1/level² | Prevalence of dark runs.
RunEntropy | bit | Variety of the grey levels and lengths of runs.
RunLengthNonUniformity | runs | Unevenness of run lengths. | grows 1
RunLengthNonUniformityNormalized | 1 | Unevenness of run lengths: low if lengths vary.
RunPercentage | 1 | Runs per voxel: near 1 for fine, low for coarse texture.
RunVariance | voxel² | Spread of the run lengths.
ShortRunEmphasis | 1 | Prevalence of short runs: fine texture.
ShortRunHighGrayLevelEmphasis | level² | Prevalence of short bright runs.
ShortRunLowGrayLevelEmphasis | 1/level² | Prevalence of short dark runs.
""",
    "glszm": """
GrayLevelNonUniformity | zones | Unevenness of grey levels over zones. | grows 0.9
GrayLevelNonUniformityNormalized | 1 | Unevenness of grey levels over zones: low if all are as frequent.
GrayLevelVariance | level² | Spread of the grey levels of zones.
HighGrayLevelZoneEmphasis | level² | Prevalence of bright zones.
LargeAreaEmphasis | voxel² | Prevalence of large zones of equal grey level. | grows 1.1
LargeAreaHighGrayLevelEmphasis | level²·voxel² | Prevalence of large bright zones. | grows 1.2
LargeAreaLowGrayLevelEmphasis | voxel²/level² | Prevalence of large dark zones. | grows 0.9
LowGrayLevelZoneEmphasis | 1/level² | Prevalence of dark zones.
SizeZoneNonUniformity | zones | Unevenness of zone sizes. | grows 0.9
SizeZoneNonUniformityNormalized | 1 | Unevenness of zone sizes: low if sizes vary.
SmallAreaEmphasis | 1 | Prevalence of small zones: fine texture.
SmallAreaHighGrayLevelEmphasis | level² | Prevalence of small bright zones.
SmallAreaLowGrayLevelEmphasis | 1/level² | Prevalence of small dark zones.
ZoneEntropy | bit | Variety of the grey levels and sizes of zones.
ZonePercentage | 1 | Zones per voxel: near 1 for fine, low for coarse texture.
ZoneVariance | voxel² | Spread of the zone sizes. | grows 1.1
""",
    "gldm": """
DependenceEntropy | bit | Variety of grey levels and of the number of like neighbours.
DependenceNonUniformity | voxels | Unevenness of the number of like neighbours. | grows 1
DependenceNonUniformityNormalized | 1 | Unevenness of the number of like neighbours: low if it varies.
DependenceVariance | voxel² | Spread of the number of like neighbours.
GrayLevelNonUniformity | voxels | Unevenness of grey levels over voxels. | grows 1
GrayLevelVariance | level² | Spread of the grey levels.
HighGrayLevelEmphasis | level² | Prevalence of bright voxels.
LargeDependenceEmphasis | voxel² | Prevalence of voxels with many like neighbours: homogeneous texture.
LargeDependenceHighGrayLevelEmphasis | level²·voxel² | Prevalence of bright voxels with many like neighbours.
LargeDependenceLowGrayLevelEmphasis | voxel²/level² | Prevalence of dark voxels with many like neighbours.
LowGrayLevelEmphasis | 1/level² | Prevalence of dark voxels.
SmallDependenceEmphasis | 1 | Prevalence of voxels with few like neighbours: uneven texture.
SmallDependenceHighGrayLevelEmphasis | level² | Prevalence of bright voxels with few like neighbours.
SmallDependenceLowGrayLevelEmphasis | 1/level² | Prevalence of dark voxels with few like neighbours.
""",
    "ngtdm": """
Busyness | 1 | Rapid changes from voxels to their surroundings, relative to brightness. | grows 0.8
Coarseness | 1 | Slow changes, so that voxels are like their surroundings. | shrinks -1
Complexity | level² | Many different structures with sharp changes between them.
Contrast | level² | Large range of grey levels together with large local changes.
Strength | level | Clearly visible, distinct structures. | shrinks -0.8
""",
}


def _build() -> dict[str, Feature]:
    drivers = {name for name, _ in DRIVERS.values()}
    table = {}
    for cls, rows in _ROWS.items():
        for row in rows.strip().splitlines():
            short, unit, meaning, *size = (cell.strip() for cell in row.split("|"))
            name = f"original_{cls}_{short}"
            steered = cls in STEERED_CLASSES and short != "StandardDeviation"
            role = "driver" if name in drivers else "derived"
            trend, growth = size[0].split() if size else ("free", 0)
            table[name] = Feature(name, cls, short, unit, meaning, role, trend, float(growth), steered)
    return table


FEATURES: dict[str, Feature] = _build()


def names(*classes: str, steered: bool = False) -> tuple[str, ...]:
    """Names of the features of the given classes (all without any), in the table's order."""
    return tuple(
        f.name for f in FEATURES.values() if (not classes or f.cls in classes) and (f.steered or not steered)
    )


def resolve(name: str) -> tuple[str, float]:
    """Full feature name and factor for a name as typed: the feature's value is factor × the given value.

    Accepted are pyradiomics' names, with or without `original_`, and the driver names (`volume_ml`).

    :raises InputError: the name is unknown; the message lists the closest ones.
    """
    if name in DRIVERS:
        return DRIVERS[name]
    for full in (name, f"original_{name}"):
        if full in FEATURES:
            return full, 1.0
    by_lower = {
        f.short.lower(): f.name for f in reversed(FEATURES.values())
    }  # of two alike, the first that the table has
    by_lower |= {n.lower(): n for n in [*FEATURES, *DRIVERS]}
    near = get_close_matches(str(name).lower(), by_lower, 3, 0.5)
    hint = (
        f"Did you mean {', '.join(dict.fromkeys(by_lower[n] for n in near))}?"
        if near
        else f"Use a pyradiomics name such as original_glcm_Contrast, or one of {', '.join(DRIVERS)}."
    )
    raise InputError(f"Unknown feature '{name}'. {hint}")


def power_of(name: str) -> int:
    """Power of the intensities' unit in a feature's: it is multiplied by that of a factor that intensities and bins are."""
    unit = FEATURES[name].unit if name in FEATURES else ""
    return 2 if "intensity²" in unit else int("intensity" in unit)


def unit_of(name: str, intensity: str = "") -> str:
    """Unit of a feature for an image whose intensities have the unit `intensity` ('HU', or '' for none).

    Filtered images (`wavelet-LLH_glcm_Contrast`) have grey values without a unit. What counts grey levels (bins) is shown as a
    plain number ("1"), as IBSI and pyradiomics give it.
    """
    image, _, feature = name.partition("_")
    unit = FEATURES[f"original_{feature}"].unit
    if "level" in unit:
        return "1"
    if intensity and image == "original":
        return unit.replace("intensity", intensity)
    return unit if "intensity" not in unit else unit.replace("intensity", "grey value")
