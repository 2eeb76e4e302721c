"""Command line: `tumorsynth`. Parsing and exit codes; what the commands do is in `commands.py`.

Exit codes: 0 done, 1 internal error, 2 wrong use or input, 3 model missing or damaged, 130 stopped by the user.
Nothing heavy is imported here, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from TumorSynthLib import __version__
from TumorSynthLib.errors import Cancelled, InputError, TumorSynthError

DEBUG_VARIABLE = "TUMORSYNTH_DEBUG"
SAFETY = "For research use only; not for diagnosis."
FEATURES_HELP = (
    'features file: {"features": {NAME: VALUE, …}} as `extract --json` prints it, or the inner object'
)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str):
        raise InputError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors are one line on stderr."""
    previous = _terminate_cleanly()
    try:
        args = parser().parse_args(argv)
        return args.run(args) or 0
    except (KeyboardInterrupt, Cancelled):
        return _fail("stopped; nothing was written", Cancelled.exit_code)
    except TumorSynthError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return 0
    except MemoryError:
        return _fail("there is not enough memory: close other programs, or edit a smaller region", 1)
    except Exception as error:
        return _fail(
            f"internal error: {type(error).__name__}: {error}; set {DEBUG_VARIABLE}=1 to see where", 1
        )
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _fail(message: str, code: int) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        traceback.print_exc()
    print("tumorsynth: " + " ".join(message.split()), file=sys.stderr)
    return code


def _terminate_cleanly():
    """Make SIGTERM (e.g. of a cluster's scheduler) stop like Ctrl-C; returns the previous handler."""

    def stop(number, frame):
        raise KeyboardInterrupt

    try:
        return signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        return None


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="tumorsynth", description="Edit tumours in CT and MR by their radiomics features.", epilog=SAFETY
    )
    top.add_argument("--version", action="version", version=f"tumorsynth {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_extract(commands)
    _add_synthesize(commands)
    _add_remove(commands)
    _add_move(commands)
    _add_models(commands)
    _add_demo(commands)
    return top


def _command(name: str):
    """The function of a command, imported when it is called."""

    def run(args: argparse.Namespace) -> int:
        from TumorSynthLib import commands

        return getattr(commands, name)(args)

    return run


def _add(commands, name: str, text: str, function: str | None = None):
    sub = commands.add_parser(name, help=text, description=text, epilog=SAFETY)
    sub.set_defaults(run=_command(function or name))
    return sub


def _add_image_and_mask(sub) -> None:
    sub.add_argument(
        "image", metavar="IMAGE", help="NIfTI, NRRD or MetaImage file, or a folder with one DICOM series"
    )
    sub.add_argument(
        "mask", metavar="MASK", help="mask or labelmap of the tumour; may have a grid of its own"
    )
    sub.add_argument(
        "--label", type=int, metavar="N", help="label of the tumour in MASK (default: the only one)"
    )
    sub.add_argument(
        "--modality",
        metavar="NAME",
        help="modality of IMAGE, one of the model's (default: found from its values)",
    )


def _add_output(sub, image: bool = True) -> None:
    sub.add_argument("--json", action="store_true", help="print the result as JSON")
    if image:
        sub.add_argument("--quiet", action="store_true", help="no progress bar")
        sub.add_argument(
            "--report", metavar="DIR", help="write an HTML report with pictures and features into DIR"
        )


def _add_edit(sub) -> None:
    """Options that all edits share."""
    sub.add_argument(
        "--model", metavar="ID", help="model (see `tumorsynth models list`), or a bundle's folder"
    )
    sub.add_argument(
        "--repeat", metavar="SIDECAR", help="repeat a recorded edit: the JSON file beside its result"
    )
    sub.add_argument(
        "--out",
        metavar="IMAGE",
        required=True,
        help="edited image (.nii.gz, .nii, .nrrd or .mha); a JSON sidecar is written beside it",
    )
    sub.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed gives another tumour (default: 0)"
    )
    sub.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="evaluations of the network (default: the model's; the paper's: 200)",
    )
    sub.add_argument(
        "--eta",
        type=float,
        metavar="E",
        help="noise of the sampler, 0 to 1 (default: the model's; the paper's: 1)",
    )
    sub.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps (default: auto)"
    )
    _add_output(sub)


def _add_features(sub) -> None:
    sub.add_argument("--features", metavar="F.json", help=FEATURES_HELP)
    sub.add_argument(
        "--set",
        action="append",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="ask for a feature, by pyradiomics' name (original_glcm_Contrast) or a driver's (intensity_sd)",
    )
    sub.add_argument(
        "--samples",
        type=int,
        default=1,
        metavar="N",
        help="draw N, keep the nearest to the request (default: 1)",
    )
    sub.add_argument(
        "--solve",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="move the network's sample until the asked features hold (default: yes)",
    )


def _add_extract(commands) -> None:
    sub = _add(commands, "extract", "Measure the radiomics features of a tumour.")
    _add_image_and_mask(sub)
    how = sub.add_mutually_exclusive_group()
    how.add_argument(
        "--model",
        metavar="ID",
        help="measure as this model does, with percentiles among its training tumours",
    )
    how.add_argument(
        "--settings",
        metavar="S.yaml",
        help="pyradiomics settings, YAML or JSON (default: pyradiomics' defaults)",
    )
    sub.add_argument("--out", metavar="F.json", help="write the features to a file")
    _add_output(sub, image=False)


def _add_synthesize(commands) -> None:
    sub = _add(commands, "synthesize", "Put a tumour with the asked features into a mask.")
    _add_image_and_mask(sub)
    _add_edit(sub)
    _add_features(sub)
    sub.add_argument("--donor", nargs=2, metavar=("IMAGE2", "MASK2"), help="take the texture of this tumour")
    sub.add_argument("--donor-label", type=int, metavar="N", help="label of the tumour in MASK2")


def _add_remove(commands) -> None:
    sub = _add(commands, "remove", "Put healthy tissue in place of a tumour.")
    _add_image_and_mask(sub)
    rim = "widen the mask by so much, where a rim of the tumour lies outside its contour (default: 0)"
    sub.add_argument("--grow", type=float, default=0.0, metavar="MM", help=rim)
    _add_edit(sub)


def _add_move(commands) -> None:
    sub = _add(commands, "move", "Move a tumour to another place.")
    _add_image_and_mask(sub)
    sub.add_argument("--to", nargs=3, type=float, metavar=("X", "Y", "Z"), help="its new centre, LPS mm")
    sub.add_argument("--inside", metavar="MASK", help="organ that it must stay in (default: the body)")
    sub.add_argument("--inside-label", type=int, metavar="N", help="label of the organ in its mask")
    sub.add_argument("--out-mask", metavar="MASK", required=True, help="mask of the moved tumour")
    _add_edit(sub)
    _add_features(sub)


def _add_models(commands) -> None:
    top = commands.add_parser(
        "models", help="List, install and check models.", description="List, install and check models."
    )
    actions = top.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_output(
        _add(actions, "list", "Models on this machine and in the catalogue.", "models_list"), image=False
    )
    model = {"metavar": "ID", "help": "model id, or a bundle's folder"}
    sub = _add(actions, "info", "All that is known of a model: data, licence, scores.", "models_info")
    sub.add_argument("model", **model)
    _add_output(sub, image=False)
    sub = _add(
        actions,
        "install",
        "Install a model from the catalogue, a file, a folder or an https address.",
        "models_install",
    )
    sub.add_argument(
        "source", metavar="SRC", help="id in the catalogue, .zip file, bundle folder, or https address"
    )
    sub.add_argument("--sha256", metavar="HASH", help="expected SHA-256 of a downloaded file")
    sub.add_argument("--yes", action="store_true", help="don't ask")
    _add_output(sub, image=False)
    sub = _add(actions, "remove", "Delete an installed model.", "models_remove")
    sub.add_argument("model", metavar="ID", help="model id")
    _add_output(sub, image=False)
    sub = _add(actions, "verify", "Check the files of one model, or of all.", "models_verify")
    sub.add_argument("model", nargs="?", **model)
    _add_output(sub, image=False)
    sub = _add(
        actions,
        "params",
        "The pyradiomics parameter file (YAML) that gives a model's features.",
        "models_params",
    )
    sub.add_argument("model", **model)
    sub.add_argument("--modality", metavar="NAME", help="one of the model's (default: the only one)")
    sub.add_argument("--out", metavar="F.yaml", help="write it to a file")
    _add_output(sub, image=False)


def _add_demo(commands) -> None:
    sub = _add(
        commands,
        "demo",
        "Measure, remove, change and move a real lung tumour; needs package registries once.",
    )
    sub.add_argument(
        "--out", default="demo-output", metavar="DIR", help="folder for the results (default: demo-output)"
    )
    sub.add_argument(
        "--model", default="lung-nodule-ct", metavar="ID", help="model (default: lung-nodule-ct)"
    )
    sub.add_argument("--phantom", action="store_true", help="use a generated phantom, download nothing")
    sub.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps (default: auto)"
    )
    sub.add_argument("--json", action="store_true", help="print the result as JSON")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")


if __name__ == "__main__":
    sys.exit(main())
