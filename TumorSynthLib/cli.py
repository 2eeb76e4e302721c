"""Command line: `tumorsynth`. Parsing and exit codes; what the commands do is in `commands.py`.

Exit codes: 0 done, 1 internal error, 2 wrong use or input, 3 model missing or damaged, 130 stopped by the user.
Nothing heavy is imported here, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence

from TumorSynthLib import __version__
from TumorSynthLib.errors import Cancelled, ImageWarning, InputError, TumorSynthError
from TumorSynthLib.threads import share_cores

DEBUG_VARIABLE = "TUMORSYNTH_DEBUG"
MARGIN_MM = 20.0  # of the mass effect: far enough for a tumour of twice the volume
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
    previous = _stop_cleanly()
    share_cores()
    try:
        args = parser().parse_args(argv)
        with _told_warnings():
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
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _told_warnings() -> Iterator[None]:
    """Print what readers had to choose or resample as lines of the program, not as Python's warnings."""
    with warnings.catch_warnings():
        other = warnings.showwarning

        def show(message, category, *where, **more):
            if issubclass(category, ImageWarning):
                print("warning: " + " ".join(str(message).split()), file=sys.stderr)
            else:
                other(message, category, *where, **more)

        warnings.showwarning = show
        warnings.simplefilter("always", ImageWarning)
        yield


def _fail(message: str, code: int) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        traceback.print_exc()
    print("tumorsynth: " + " ".join(message.split()), file=sys.stderr)
    return code


class _Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, as a class of its own.

    Where a plain KeyboardInterrupt leaves `exec` of a text (importing torch runs hundreds), CPython notes it and ends the
    process by SIGINT, although it was caught since.
    """


def _stop_cleanly() -> dict:
    """Make Ctrl-C and SIGTERM (e.g. of a cluster's scheduler) raise `_Stopped`; returns the handlers of before by signal."""

    def stop(number, frame):
        raise _Stopped

    wanted = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as under nohup
        wanted.append(signal.SIGINT)
    try:
        return {number: signal.signal(number, stop) for number in wanted}
    except ValueError:  # not the main thread
        return {}


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
    _add_shape(commands)
    _add_reshape(commands)
    _add_move(commands)
    _add_insert(commands)
    _add_series(commands)
    _add_models(commands)
    _add_demo(commands)
    return top


def _command(name: str):
    """The function of a command, imported when it is called."""

    def run(args: argparse.Namespace) -> int:
        if name.startswith("models_"):
            from TumorSynthLib import model_commands

            return getattr(model_commands, name)(args)
        from TumorSynthLib import commands

        return getattr(commands, name)(args)

    return run


def _add(commands, name: str, text: str, function: str | None = None):
    sub = commands.add_parser(name, help=text, description=text, epilog=SAFETY)
    sub.set_defaults(run=_command(function or name))
    return sub


def _add_image_and_mask(sub, mask: bool = True) -> None:
    sub.add_argument(
        "image",
        metavar="IMAGE",
        help="NIfTI, NRRD, MetaImage or DICOM file, or a folder with one DICOM series",
    )
    if mask:
        sub.add_argument(
            "mask",
            metavar="MASK",
            help="mask or labelmap of the tumour, .seg.nrrd, DICOM SEG or RTSTRUCT; may have a grid of its own",
        )
        sub.add_argument(
            "--label",
            metavar="N",
            help="label, segment or structure of the tumour in MASK, by number or name (default: the only one)",
        )
    _add_modality(sub)


def _add_region(sub, default: str) -> None:
    sub.add_argument(
        "--region",
        metavar="NAME",
        help=f"one of the model's regions, where it has several; MASK is then a labelmap of all (default: {default})",
    )


def _add_modality(sub) -> None:
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


def _add_edit(sub, out: tuple[str, str] | None = None) -> None:
    """Options that all edits share.

    :param out: metavar and help of --out where it isn't an image, in which case there is no --repeat.
    """
    _add_model(sub)
    if out is None:
        _add_repeat(sub)
    image = ("IMAGE", "edited image (.nii.gz, .nii, .nrrd or .mha); a JSON sidecar is written beside it")
    metavar, text = out or image
    sub.add_argument("--out", metavar=metavar, required=True, help=text)
    _add_seed(sub)
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
        "--keep-header",
        action="store_true",
        help="keep DICOM attributes in the result's header, the patient's name among them (default: left out)",
    )
    _add_output(sub)


def _add_model(sub) -> None:
    sub.add_argument(
        "--model", metavar="ID", help="model (see `tumorsynth models list`), or a bundle's folder"
    )
    sub.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps (default: auto)"
    )


def _add_repeat(sub) -> None:
    sub.add_argument(
        "--repeat", metavar="SIDECAR", help="repeat a recorded edit: the JSON file beside its result"
    )


def _add_seed(sub) -> None:
    sub.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed gives another tumour (default: 0)"
    )


def _add_features(sub, samples: bool = True) -> None:
    sub.add_argument("--features", metavar="F.json", help=FEATURES_HELP)
    sub.add_argument(
        "--set",
        action="append",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="ask for a feature, by pyradiomics' name (original_glcm_Contrast) or a driver's (intensity_sd, volume_ml)",
    )
    if samples:
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


def _add_donor(sub) -> None:
    sub.add_argument("--donor", nargs=2, metavar=("IMAGE2", "MASK2"), help="take the texture of this tumour")
    sub.add_argument("--donor-label", metavar="N", help="label of the tumour in MASK2, number or name")


def _add_inside(sub) -> None:
    sub.add_argument("--inside", metavar="MASK", help="organ that it must stay in (default: the body)")
    sub.add_argument("--inside-label", metavar="N", help="label of the organ in its mask, number or name")
    sub.add_argument(
        "--nearest", action="store_true", help="if it doesn't fit there, take the nearest place where it does"
    )


def _add_grow(sub, what: str) -> None:
    text = f"widen the mask{what} by so much, where a rim of the tumour lies outside its contour (default: 0)"
    sub.add_argument("--grow", type=float, default=0.0, metavar="MM", help=text)


def _add_mass_effect(sub) -> None:
    text = f"let the tissue within so many mm make room for the tumour (without a number: {MARGIN_MM:g}; default: off)"
    sub.add_argument(
        "--mass-effect", type=float, nargs="?", const=MARGIN_MM, default=0.0, metavar="MM", help=text
    )


def _add_extract(commands) -> None:
    sub = _add(commands, "extract", "Measure the radiomics features of a tumour.")
    _add_image_and_mask(sub)
    _add_region(sub, "the only one")
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
    _add_region(sub, "the only one")
    _add_edit(sub)
    _add_features(sub)
    _add_donor(sub)


def _add_remove(commands) -> None:
    sub = _add(commands, "remove", "Put healthy tissue in place of a tumour.")
    _add_image_and_mask(sub)
    _add_region(sub, "all")
    _add_grow(sub, "")
    _add_edit(sub)


def _add_shape(commands) -> None:
    sub = _add(
        commands, "shape", "Draw a mask with the asked shape features, without an image or on one's grid."
    )
    _add_model(sub)
    _add_repeat(sub)
    _add_features(sub, samples=False)
    sub.add_argument(
        "--spacing",
        type=float,
        nargs="+",
        metavar="S",
        help="mm of its voxels, one number or x y z (default: the model's)",
    )
    sub.add_argument("--like", metavar="IMAGE", help="image whose grid the mask gets; needs --at")
    sub.add_argument("--at", nargs=3, type=float, metavar=("X", "Y", "Z"), help="its centre of mass, LPS mm")
    sub.add_argument(
        "--core",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="give it a core of this share of its volume, e.g. 0.3: the rim gets label 1, the core 2",
    )
    _add_inside(sub)
    _add_modality(sub)
    _add_seed(sub)
    sub.add_argument("--out", metavar="MASK", required=True, help="mask (.nii.gz, .nii, .nrrd or .mha)")
    _add_output(sub)


def _add_reshape(commands) -> None:
    sub = _add(commands, "reshape", "Give a tumour another size or form; texture and place are kept.")
    _add_image_and_mask(sub)
    sub.add_argument(
        "--to", nargs=3, type=float, metavar=("X", "Y", "Z"), help="put it elsewhere: its new centre, LPS mm"
    )
    _add_new_place(sub)
    _add_grow(sub, " of the old tumour")


def _add_new_place(sub) -> None:
    """Options of the edits that put a tumour into a new mask."""
    _add_inside(sub)
    sub.add_argument("--out-mask", metavar="MASK", required=True, help="mask of the new tumour")
    _add_edit(sub)
    _add_features(sub)
    _add_donor(sub)
    _add_mass_effect(sub)


def _add_move(commands) -> None:
    sub = _add(
        commands, "move", "Move a tumour to another place; with shape features, give it another form there."
    )
    _add_image_and_mask(sub)
    sub.add_argument("--to", nargs=3, type=float, metavar=("X", "Y", "Z"), help="its new centre, LPS mm")
    _add_new_place(sub)
    _add_grow(sub, " of the old tumour")


def _add_insert(commands) -> None:
    sub = _add(commands, "insert", "Put a new tumour into healthy tissue.")
    _add_image_and_mask(sub, mask=False)
    sub.add_argument("--at", nargs=3, type=float, metavar=("X", "Y", "Z"), help="its centre, LPS mm")
    _add_new_place(sub)


def _add_series(commands) -> None:
    sub = _add(commands, "series", "Several values of one feature: volumes, masks, a table and pictures.")
    _add_image_and_mask(sub)
    sub.add_argument(
        "--feature", metavar="NAME", required=True, help="of shape (volume_ml) or texture (contrast)"
    )
    text = "numbers, or multiples of the tumour's own value, as in 0.5x,1x,2x; write --values=-50,0 where the first is negative"
    sub.add_argument("--values", metavar="A,B,C", required=True, help=text)
    _add_inside(sub)
    _add_edit(sub, out=("DIR", "folder for the results"))
    _add_features(sub)
    _add_grow(sub, " of the old tumour")
    _add_mass_effect(sub)


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
        "Measure, remove, change, grow and move a real lung tumour; needs package registries once.",
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
