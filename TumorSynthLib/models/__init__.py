"""Models: bundles on disk, the catalogue, and their installation.

A bundle is a folder with ``bundle.json`` and safetensors files, and all that an edit needs. These formats hold no
code, and nothing is sent anywhere: the network is used only to download a model (or a catalogue) that the
user asked for.

    bundle = find("lung-nodule-ct")                 # installed by the user, or bundled
    weights = bundle.tensors("model.safetensors")   # checked by SHA-256, then parsed
"""

from .bundle import ANY, Bundle, load_bundle, verify_folder
from .card import memorisation
from .catalogue import RELEASE_URL, Catalogue, Entry, load_catalogue
from .folders import bundled_folder, user_folder
from .installation import InstallPlan, install, plan_install, remove
from .params import pyradiomics_params
from .store import Installed, Listing, find, info, installed, list_models, that_come_along, verify

__all__ = [
    "ANY",
    "RELEASE_URL",
    "Bundle",
    "Catalogue",
    "Entry",
    "InstallPlan",
    "Installed",
    "Listing",
    "bundled_folder",
    "find",
    "info",
    "install",
    "installed",
    "list_models",
    "load_bundle",
    "load_catalogue",
    "memorisation",
    "plan_install",
    "pyradiomics_params",
    "remove",
    "that_come_along",
    "user_folder",
    "verify",
    "verify_folder",
]
