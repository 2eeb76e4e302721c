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
from importlib import import_module
from typing import Any

from TumorSynthLib import NOTICE, __version__
from TumorSynthLib.edit.edits import EDITS, names
from TumorSynthLib.edit.options import Option, of_edit
from TumorSynthLib.errors import Cancelled, ImageWarning, InputError, TumorSynthError
from TumorSynthLib.terminal import sturdy_streams
from TumorSynthLib.threads import share_cores

DEBUG_VARIABLE = "TUMORSYNTH_DEBUG"
OUT_IMAGE = (
    "IMAGE",
    "edited image (.nii.gz, .nii, .nrrd or .mha); a JSON file that records the edit is written beside it",
)
LONGEST_MESSAGE = 2000  # characters; a number of 5,000 digits isn't repeated whole
FEATURES_HELP = 'ask for the features in a file, as `extract --model auto --json` prints it, or a plain {"NAME": VALUE, …}'


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def parse_args(self, args=None, namespace=None):
        found, left = self.parse_known_args(args, namespace)
        if left:
            more = "; --label takes one here" if getattr(found, "label", None) and left[0].isalnum() else ""
            self.error(f"unrecognized arguments: {' '.join(left)}{more}")
        return found

    def error(self, message: str):
        raise InputError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors are one line on stderr."""
    previous = _stop_cleanly()
    share_cores()
    try:
        with sturdy_streams() as (out, _):
            code = _run(argv)
            out.flush()
            if out.lost is None or isinstance(out.lost, BrokenPipeError):  # `| head` has what it wants
                return code
            return code or _unprinted(argv, out.lost)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = parser().parse_args(argv)
        with _told_warnings():
            return args.run(args) or 0
    except (KeyboardInterrupt, Cancelled):
        return _fail("stopped; nothing was written", Cancelled.exit_code)
    except TumorSynthError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:  # a file, a folder or the disk refuses; those that matter have a better message
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}; check the file, its folder and the disk", 2)
    except Exception as error:
        if isinstance(error, MemoryError) or "not enough memory" in str(error):  # torch's is a RuntimeError
            return _fail("there is not enough memory: close other programs, or edit a smaller region", 2)
        return _fail(
            f"internal error: {type(error).__name__}: {error}; set {DEBUG_VARIABLE}=1 to see where", 1
        )


def _unprinted(argv: Sequence[str] | None, error: OSError) -> int:
    """Exit code where the result couldn't be printed: 0 where it is in files."""
    args = parser().parse_args(argv)
    only_printed = args.command == "extract" or getattr(args, "action", "") in (
        "list",
        "info",
        "verify",
        "params",
    )
    code = InputError.exit_code if only_printed and not getattr(args, "out", None) else 0
    return _fail(f"the result can't be printed ({error.strerror or error})", code)


@contextlib.contextmanager
def _told_warnings() -> Iterator[None]:
    """Print what readers had to choose or resample as lines of the program, not as Python's warnings."""
    told: set[str] = set()
    with warnings.catch_warnings():
        other = warnings.showwarning

        def show(message, category, *where, **more):
            text = " ".join(str(message).split())
            if issubclass(category, ImageWarning):
                if text not in told:
                    print(f"warning: {text}", file=sys.stderr)
                told.add(text)
            else:
                other(message, category, *where, **more)

        warnings.showwarning = show
        warnings.simplefilter("always", ImageWarning)
        yield


def _fail(message: str, code: int) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        traceback.print_exc()
    line = " ".join(message.split())
    line = line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"
    print("tumorsynth: " + line, file=sys.stderr)
    return code


class _Stopped(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or the like, as a class of its own.

    Where a plain KeyboardInterrupt leaves `exec` of a text (importing torch runs hundreds), CPython notes it and ends the
    process by SIGINT, although it was caught since.
    """


def _stop_cleanly() -> dict:
    """Make Ctrl-C and the signals of a closed terminal or a cluster's scheduler raise `_Stopped`; returns the handlers of
    before by signal."""

    def stop(number, frame):
        raise _Stopped

    wanted = [signal.SIGTERM]
    for name in ("SIGHUP", "SIGXCPU"):  # a closed terminal, a cluster's limit of CPU time; not on Windows
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # ignored under nohup
            wanted.append(number)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as under nohup
        wanted.append(signal.SIGINT)
    try:
        return {number: signal.signal(number, stop) for number in wanted}
    except ValueError:  # not the main thread
        return {}


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="tumorsynth", description="Edit tumours in CT and MR by their radiomics features.", epilog=NOTICE
    )
    top.add_argument("--version", action="version", version=f"tumorsynth {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_extract(commands)
    for name in names(changes=True, command=True):
        if name != "series":
            _add_edit(commands, name)
    _add_shape(commands)
    _add_series(commands)
    _add_batch(commands)
    _add_models(commands)
    _add_demo(commands)
    return top


#: Command to the module and function that do it, imported when it is called.
_DOES = {
    "extract": "commands:extract",
    "edit": "commands:edit",
    "shape": "shape_commands:draw",
    "series": "shape_commands:run_series",
    "demo": "demo:command",
    "batch": "study.command:batch",
}


def _command(name: str):
    """The function of a command, imported when it is called."""

    def run(args: argparse.Namespace) -> int:
        module, _, function = _DOES.get(name, f"model_commands:{name}").partition(":")
        return getattr(import_module(f"TumorSynthLib.{module}"), function)(args)

    return run


def _add(commands, name: str, text: str, function: str | None = None):
    sub = commands.add_parser(name, help=text, description=text, epilog=NOTICE)
    sub.set_defaults(run=_command(function or name))
    return sub


def _add_image_and_mask(sub, mask: bool = True, several: bool = False) -> None:
    sub.add_argument(
        "image",
        metavar="IMAGE",
        help="NIfTI, NRRD, MetaImage or DICOM file, or a folder with one DICOM series",
    )
    if not mask:
        return
    sub.add_argument(
        "mask",
        metavar="MASK",
        help="mask of the tumour: NIfTI, NRRD, .seg.nrrd, MetaImage, DICOM SEG or RTSTRUCT; may have a grid of its own",
    )
    if several:
        sub.add_argument(
            "--label", nargs="+", action=_Labels, metavar="N",
            help="label, segment or structure of the tumour in MASK, by number or name, or several (default: the only one)",
        )  # fmt: skip
    else:
        sub.add_argument(
            "--label",
            metavar="N",
            help="label, segment or structure of the tumour in MASK, by number or name (default: the only one)",
        )


class _Labels(argparse.Action):
    """One or more labels, with blanks or commas between them, or the flag several times."""

    def __call__(self, parser, namespace, values, option_string=None):
        labels = [part for text in values for part in text.split(",") if part]
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest, None) or []), *labels])


class _Point(argparse.Action):
    """Three numbers, or one word, which the table of options checks."""

    def __call__(self, parser, namespace, values, option_string=None):
        try:
            numbers = tuple(float(v) for v in values)
        except ValueError:
            numbers = ()
        if len(numbers) != 3 and len(values) != 1:
            parser.error(
                f"{option_string} takes three numbers (x y z in LPS mm) or one word, not {' '.join(values)}"
            )
        setattr(namespace, self.dest, numbers if len(numbers) == 3 else values[0])


def _add_option(sub, row: Option) -> None:
    """The flag of an option. One that isn't given is missing from the parsed arguments."""
    common: dict[str, Any] = {
        "dest": row.name,
        "default": argparse.SUPPRESS,
        "help": row.help.replace("%", "%%"),
    }
    if row.kind == "features":
        sub.add_argument(row.flag, metavar="F.json", default=None, help=FEATURES_HELP)
        sub.add_argument(
            "--set", action="append", nargs="+", default=[], metavar="NAME=VALUE",
            help="ask for a feature, by pyradiomics' name (original_glcm_Contrast) or a short one (intensity_sd, volume_ml); "
            "`extract --model auto` shows those of a tumour; 0.5x as VALUE is half of its own, where one is edited",
        )  # fmt: skip
    elif row.kind == "switch":
        sub.add_argument(
            row.flag, action=argparse.BooleanOptionalAction if row.default else "store_true", **common
        )
    elif row.kind == "donor":
        sub.add_argument(row.flag, nargs=2, metavar=("IMAGE2", "MASK2"), **common)
        sub.add_argument(
            f"{row.flag}-label", metavar="N", help="label of the tumour in MASK2, number or name"
        )
    elif row.kind == "mask":
        sub.add_argument(row.flag, metavar="MASK", **common)
        if row.labels == "one":
            sub.add_argument(
                f"{row.flag}-label", metavar="N", help=f"label in the mask of {row.flag}, number or name"
            )
    elif row.kind == "point" and row.words:
        sub.add_argument(row.flag, nargs="+", action=_Point, metavar="X Y Z|" + "|".join(row.words), **common)
    elif row.kind == "point":
        sub.add_argument(row.flag, nargs=3, type=float, metavar=("X", "Y", "Z"), **common)
    elif row.kind == "choice":
        sub.add_argument(row.flag, choices=row.choices, **common)
    else:
        metavar = row.metavar or row.unit.upper() or "VALUE"
        more: dict[str, Any] = {} if row.bare is None else {"nargs": "?", "const": row.bare}
        kind = {"number": float, "whole": int}.get(row.kind, str)
        sub.add_argument(row.flag, type=kind, metavar=metavar, **common, **more)


def _add_output(sub, image: bool = True) -> None:
    sub.add_argument("--json", action="store_true", help="print the result as JSON")
    if image:
        sub.add_argument("--quiet", action="store_true", help="no progress bar")
        sub.add_argument(
            "--report", metavar="DIR", help="write an HTML report with pictures and features into DIR"
        )


def _add_edit(commands, name: str, out: tuple[str, str] = OUT_IMAGE, repeat: bool = True):
    """A command that edits, with the options that the table gives it.

    :param out: metavar and help of --out.
    """
    edit = EDITS[name]
    sub = _add(commands, name, edit.does, name if name in ("shape", "series") else "edit")
    if name != "shape":
        _add_image_and_mask(sub, mask=edit.mask, several=name == "remove")
    _add_model(sub)
    if repeat:
        sub.add_argument(
            "--repeat", metavar="SIDECAR", help="repeat a recorded edit: the JSON file beside its result"
        )
    metavar, text = out
    sub.add_argument("--out", metavar=metavar, required=True, help=text)
    if edit.changes and edit.shape and name != "series":
        sub.add_argument(
            "--out-mask",
            metavar="MASK",
            required=True,
            help="mask of the new tumour; with --label also of the others in MASK, as they were",
        )
    for row in of_edit(name).values():
        if row.flag:
            _add_option(sub, row)
    if name != "shape":
        sub.add_argument(
            "--keep-header",
            action="store_true",
            help="keep DICOM attributes, the patient's name among them, in the result's header (default: they are left out)",
        )
    if not edit.model:
        sub.add_argument(
            "--settings",
            metavar="S.yaml",
            help="pyradiomics settings without a model (default: pyradiomics' defaults)",
        )
    if name in ("remove", "reshape", "move", "insert"):  # others change the mask alone or write many files
        sub.add_argument("--zone-out", metavar="MASK", help="write a mask of all voxels that could change")
    _add_output(sub)
    return sub


def _add_model(sub) -> None:
    sub.add_argument(
        "--model",
        metavar="ID",
        help="name of a model (`tumorsynth models list` shows them), its folder, none, or auto: that for organ and modality "
        "(default: auto)",
    )
    sub.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="where the network runs: auto, cpu, cuda or mps (default: auto)",
    )


def _add_extract(commands) -> None:
    sub = _add(commands, "extract", "Measure the radiomics features of a tumour.")
    _add_image_and_mask(sub)
    for name, row in of_edit("measure").items():
        _add_option(sub, row)
        sub.set_defaults(**{name: None})
    how = sub.add_mutually_exclusive_group()
    how.add_argument(
        "--model",
        metavar="ID",
        help="measure with this model's settings, as an edit does, and tell the percentile of each feature among its training "
        "tumours; auto: that of an edit",
    )
    how.add_argument(
        "--settings",
        metavar="S.yaml",
        help="pyradiomics settings, YAML or JSON (default: pyradiomics' defaults)",
    )
    sub.add_argument("--out", metavar="F.json", help="write the features to a file")
    _add_output(sub, image=False)


def _add_shape(commands) -> None:
    sub = _add_edit(commands, "shape", ("MASK", "mask (.nii.gz, .nii, .nrrd or .mha)"))
    sub.add_argument(
        "--spacing",
        type=float,
        nargs="+",
        metavar="S",
        help="mm of its voxels, one number or x y z (default: the model's)",
    )
    sub.add_argument("--like", metavar="IMAGE", help="image whose grid the mask gets; needs --at")


def _add_series(commands) -> None:
    sub = _add_edit(commands, "series", ("DIR", "folder for the results"), repeat=False)
    sub.add_argument(
        "--feature", metavar="NAME", required=True, help="of shape (volume_ml) or texture (contrast)"
    )
    text = "numbers, or multiples of the tumour's own value, as in 0.5x,1x,2x; write --values=-50,0 where the first is negative"
    sub.add_argument("--values", metavar="A,B,C", required=True, help=text)


def _add_batch(commands) -> None:
    sub = _add(
        commands, "batch", "Do all edits of a table; if it is stopped, the same command goes on where it was."
    )
    sub.add_argument(
        "table",
        metavar="TABLE",
        help="CSV, YAML or JSON: id, image, mask, label, edit, options, seed (see the documentation)",
    )
    sub.add_argument("--out", metavar="DIR", required=True, help="folder for the results and ledger.csv")
    sub.add_argument(
        "--out-layout", choices=("flat", "nnunet"), default="flat",
        help="flat: a folder for each case (default); nnunet: nnU-Net's raw data set, DIR being its Dataset101_Name",
    )  # fmt: skip
    _add_model(sub)
    sub.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes on this machine (default: 1)"
    )
    sub.add_argument("--dask", metavar="ADDRESS", help="scheduler of a Dask cluster, or its scheduler file")
    sub.add_argument(
        "--threads", type=int, default=1, metavar="N",
        help="threads of each process; the same number gives the same voxels (default: 1)",
    )  # fmt: skip
    sub.add_argument("--retry", action="store_true", help="do failed jobs again")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_models(commands) -> None:
    top = commands.add_parser(
        "models", help="List, install and check models.", description="List, install and check models."
    )
    actions = top.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_output(
        _add(actions, "list", "List the models on this machine and in the catalogue.", "models_list"),
        image=False,
    )
    model = {"metavar": "ID", "help": "name of a model, or its folder"}
    sub = _add(
        actions, "info", "Show what is known of a model: training data, licence, scores.", "models_info"
    )
    sub.add_argument("model", **model)
    _add_output(sub, image=False)
    sub = _add(
        actions,
        "install",
        "Install a model from the catalogue, a file, a folder or an https address.",
        "models_install",
    )
    sub.add_argument(
        "source", metavar="SRC", help="name of a model in the catalogue, .zip file, folder, or https address"
    )
    sub.add_argument("--sha256", metavar="HASH", help="SHA-256 that the downloaded file must have")
    sub.add_argument("--yes", action="store_true", help="don't ask")
    _add_output(sub, image=False)
    sub = _add(actions, "remove", "Delete an installed model.", "models_remove")
    sub.add_argument("model", metavar="ID", help="name of the model")
    _add_output(sub, image=False)
    sub = _add(actions, "verify", "Check the files of one model, or of all.", "models_verify")
    sub.add_argument("model", nargs="?", **model)
    _add_output(sub, image=False)
    sub = _add(
        actions,
        "params",
        "Write the parameter file with which pyradiomics measures as a model does; give --modality where it has several.",
        "models_params",
    )
    sub.add_argument("model", **model)
    sub.add_argument(
        "--modality",
        metavar="NAME",
        help="one of the model's, which `models info` names (default: the only one)",
    )
    sub.add_argument("--out", metavar="F.yaml", help="write it to a file")
    _add_output(sub, image=False)


def _add_demo(commands) -> None:
    sub = _add(
        commands,
        "demo",
        "Measure, remove, change, grow and move the tumour of a real chest CT, which is downloaded once.",
    )
    sub.add_argument(
        "--out", default="demo-output", metavar="DIR", help="folder for the results (default: demo-output)"
    )
    sub.add_argument(
        "--model", default="lung-nodule-ct", metavar="ID", help="model (default: lung-nodule-ct)"
    )
    sub.add_argument("--phantom", action="store_true", help="use a generated phantom, download nothing")
    sub.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="where the network runs: auto, cpu, cuda or mps (default: auto)",
    )
    sub.add_argument("--json", action="store_true", help="print the result as JSON")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")


if __name__ == "__main__":
    sys.exit(main())
