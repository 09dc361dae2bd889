"""The command: arguments in, exit code out."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

from rcfast.eval import outputs
from rcfast.eval.run import launch
from rcfast.eval.run.config import PRESETS, Config, ConfigError, StageError
from rcfast.eval.run.modules import load_module
from rcfast.eval.run.progress import Progress
from rcfast.eval.run.settings import build
from rcfast.eval.run.store import StoreError
from rcfast.eval.run.team import Ended

DONE, FAILED, BAD_ARGUMENTS, UNTRUSTED, INTERRUPTED = 0, 1, 2, 3, 130
DEFAULT_OUT = "rcfast-report"

EPILOG = f"""\
stages     train (networks, length r), attack, vote, check, certify, tabulate, draw. Each is kept in the output folder,
           part by part, under a key made from its inputs: run the same command again after Ctrl-C, a crash
           or a full disk and it goes on; change a setting and only what depends on it is done again.
presets    quick: digits, minutes. cpu: MNIST, about an hour on two cores. paper: as published, for a GPU.
           Any value: --set protocol.examples=50 --set 'vote.seeds=[0,1,2,3]'. See rcfast/eval/presets/.
outputs    {", ".join(outputs.NAMES)}
exit codes 0 done, 1 failed, 2 bad arguments, 3 a check failed (--strict), 130 interrupted

examples
  python -m rcfast.eval                                        digits, four defences, into ./{DEFAULT_OUT}
  python -m rcfast.eval --preset cpu --root DATA --out mnist   MNIST on a laptop
  python -m rcfast.eval --only table4,figure8 --dry-run        what these would take
  python -m rcfast.eval --processes 8                          shared by eight processes of this host
  torchrun --nproc-per-node=2 -m rcfast.eval                   the same by torchrun, also on several hosts
  python -m rcfast.eval --defence mymodule:make                a defence of your own beside the four
  python -m rcfast.eval --dataset mine.npz --model net:make    your data, your trained network
  python -m rcfast.eval --preset imagenet-first-look --dataset photos --dry-run    ImageNet's size, ResNet-50
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m rcfast.eval`."""
    made = argparse.ArgumentParser(
        prog="python -m rcfast.eval",
        description="Measure region-based classification and other defences against evasion attacks, from "
        "training to a report with the paper's tables and figures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add(
        "--dataset",
        metavar="NAME",
        help="digits, mnist, cifar10, an .npz in the Keras layout, a folder of images (ImageFolder), or Parquet "
        "(default: the preset's)",
    )
    add("--root", metavar="DIR", help="folder of the data (default: RCFAST_DATA, else the cache)")
    add("--device", metavar="DEV", help="auto, cpu or cuda (default: auto)")
    add("--out", metavar="DIR", default=DEFAULT_OUT, help=f"output folder (default: {DEFAULT_OUT})")
    add(
        "--preset",
        metavar="NAME",
        default="quick",
        help=f"{', '.join(PRESETS)} or a .toml file (default: quick)",
    )
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="override one value; may be repeated")
    add("--defence", metavar="MODULE:FACTORY", help="measure a defence of your own, too")
    add(
        "--model",
        metavar="SOURCE",
        help="a network of your own: module:factory, FILE.safetensors, torchvision:NAME, timm:NAME, hf:FOLDER, or a "
        "name of rcfast.models",
    )
    add(
        "--weights",
        metavar="FILE",
        help="of a network of torchvision, timm or transformers: safetensors, or a PyTorch file of tensors; none: "
        "untrained (default: the library's own)",
    )
    add(
        "--outputs",
        metavar="MODULE",
        help="a module of your own that registers tables or figures (rcfast.eval.outputs.register)",
    )
    add(
        "--import",
        metavar="FILE",
        action="append",
        default=[],
        dest="imports",
        help="adversarial examples that others made: .npz, or tensors of torchattacks or AutoAttack; FILE@DEFENCE:NORM "
        "where not for the undefended network in L2; may be repeated",
    )
    add(
        "--export",
        metavar="FORMAT",
        choices=["robustbench"],
        help="robustbench: write export/: one JSON a defence, and the adversarial examples as 8-bit images",
    )
    add("--only", metavar="LIST", help="outputs to make, such as table4,figure8; runs only what they need")
    add("--seed", type=int, metavar="N", help="of training and of the drawn examples (default: 0)")
    add(
        "--dry-run",
        action="store_true",
        help="say what would be done, what is there already, and how long it takes",
    )
    add(
        "--processes",
        type=int,
        metavar="N",
        help="share the run among N processes of this host (default: the cores, up to four, for digits and mnist on a "
        "CPU, else 1); with --dry-run: also how long they would take (docs/scaling.md)",
    )
    add("--strict", action="store_true", help="make the checks, and end with exit code 3 where one fails")
    add("--quiet", action="store_true", help="say nothing but errors")
    return made


def configuration(arguments: argparse.Namespace) -> Config:
    """Return the configuration of a command line. Raises ConfigError."""
    over: dict[str, Any] = {}
    for option, section, key in (
        ("dataset", "data", "name"),
        ("root", "data", "root"),
        ("model", "model", "source"),
        ("weights", "model", "weights"),
        ("device", "", "device"),
        ("defence", "", "user_defence"),
        ("seed", "", "seed"),
    ):
        value = getattr(arguments, option)
        if value is not None:
            (over.setdefault(section, {}) if section else over)[key] = value
    if arguments.imports:
        over.setdefault("attacks", {})["imports"] = arguments.imports
    return build(arguments.preset, overrides=over, settings=arguments.set)


def parse_only(text: str | None) -> tuple[str, ...]:
    """Return the outputs of a comma-separated list, in their order; all of them for None.

    Raises ConfigError for an unknown name.
    """
    known = outputs.names()
    if text is None:
        return known
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(f"--only takes {', '.join(known)}, got {name!r}")
    if not names:
        raise ConfigError("--only names nothing")
    return tuple(name for name in known if name in names)


def main(argv: Sequence[str] | None = None, *, shared: bool = False) -> int:
    """Run the command and return its exit code; user errors are one line, not a traceback.

    shared: without --processes, several processes are started where they serve better than one.
    """
    launch.watched()
    made = parser()
    with open(os.devnull, "w") as nowhere:
        try:
            with nullcontext() if _leads() else redirect_stderr(nowhere):  # one line of several processes
                arguments = made.parse_args(argv)
                config = configuration(arguments)
                processes = _processes(arguments, config, shared)
                if arguments.outputs:
                    load_module(arguments.outputs, option="--outputs")
                wanted = parse_only(arguments.only)
                if arguments.strict and "checks" not in wanted:
                    wanted = (*wanted, "checks")
                if arguments.export:
                    wanted = (*wanted, arguments.export)
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else BAD_ARGUMENTS
        except ConfigError as error:
            return _fail(f"{made.prog}: {error}" if _leads() else "", BAD_ARGUMENTS)
    try:
        if processes > 1 and "WORLD_SIZE" not in os.environ and not arguments.dry_run:
            return launch.launch(sys.argv[1:] if argv is None else argv, processes)
        return _run(arguments, config, wanted, processes)
    except ConfigError as error:
        return _fail(f"{made.prog}: {error}", BAD_ARGUMENTS)
    except (StoreError, StageError) as error:
        return _fail(f"{made.prog}: {error}", FAILED)
    except Ended as error:  # the process that failed says why
        return BAD_ARGUMENTS if error.kind == ConfigError.__name__ else FAILED
    except KeyboardInterrupt:
        said = "interrupted; what is finished is kept, the same command goes on from there"
        return _fail(said if _leads() else "", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        return _fail(
            f"{made.prog}: no space left{where}; free some and run the same command again: "
            "it goes on after the last finished part",
            FAILED,
        )


def _leads() -> bool:
    """Whether this is the first, or the only, process of a run."""
    return os.environ.get("RANK", "0") == "0"


def _fail(message: str, code: int) -> int:
    if message:
        print(message, file=sys.stderr, flush=True)
    return code


def _processes(arguments: argparse.Namespace, config: Config, shared: bool) -> int:
    """How many processes a run is shared among. Raises ConfigError."""
    there = int(os.environ.get("WORLD_SIZE", "0"))
    if arguments.processes is None:
        return there or (launch.automatic(config, Path(arguments.out)) if shared else 1)
    if arguments.processes < 1:
        raise ConfigError(f"--processes must be positive, got {arguments.processes}")
    if there not in (0, arguments.processes) and not arguments.dry_run:
        raise ConfigError(f"--processes {arguments.processes}: torchrun has started {there}")
    return int(arguments.processes)


def _run(arguments: argparse.Namespace, config: Config, wanted: Sequence[str], processes: int) -> int:
    # After the arguments are known to be good: torch takes seconds.
    from rcfast.eval import evaluation
    from rcfast.eval.outputs.checks import failures
    from rcfast.eval.report import ending

    progress = Progress("quiet" if arguments.quiet else "auto")
    out = Path(arguments.out)
    if arguments.dry_run:
        if _leads():
            print(evaluation.describe(config, out, wanted, processes=processes))
        return DONE
    if _leads():
        progress.print(f"rcfast.eval: {config.data.name}, preset {config.preset}, into {out}")
    results = evaluation.evaluate(config, out, outputs=wanted, progress=progress)
    if not arguments.quiet and _leads():
        print(f"\n{ending(results, out / 'report.html')}", end="")
    failed = failures(results) if arguments.strict else []
    if failed:
        named = ", ".join(dict.fromkeys(record["check"] for record in failed))
        said = f"--strict: {len(failed)} checks failed: {named}"
        return _fail(said if _leads() else "", UNTRUSTED)
    return DONE
