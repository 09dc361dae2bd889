"""One run from configuration to report."""

import hashlib
import inspect
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from rcfast.eval import outputs as known
from rcfast.eval import report
from rcfast.eval.outputs import drawing, export, outcomes, vote_outcomes
from rcfast.eval.outputs.cautions import cautions
from rcfast.eval.outputs.output import Output
from rcfast.eval.results import Results
from rcfast.eval.run import dry, environment
from rcfast.eval.run.alike import alike, threads, threads_each
from rcfast.eval.run.attack import NetworkAttack
from rcfast.eval.run.begun import begin
from rcfast.eval.run.config import Config
from rcfast.eval.run.context import Context
from rcfast.eval.run.examples import DrawnExamples, examples
from rcfast.eval.run.inputs import find_device, load_data, resolved
from rcfast.eval.run.judges import judges
from rcfast.eval.run.labels import AdversarialLabels
from rcfast.eval.run.length import LearntLength, searched
from rcfast.eval.run.loop import note, perform
from rcfast.eval.run.networks import given_network, needed_for
from rcfast.eval.run.progress import Progress
from rcfast.eval.run.store import Store, digest, write_atomic
from rcfast.eval.run.team import Team
from rcfast.eval.run.unit import STAGES, Unit, closure
from rcfast.hardware import deterministic, full_float32

DRAWING = 1  # version of the step that draws: part of its key


def evaluate(
    config: Config,
    out: Path | str = "rcfast-report",
    *,
    outputs: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Results:
    """Do the work that `outputs` need (default: all), reuse what `out` holds already, and write everything there.

    Returns the results document with the times of the stages.
    Raises ConfigError for a setting or input that cannot be used, StageError for a training, attack or vote that
    fails, StoreError for a folder that is locked or a full disk; what was finished stays and is found by the next
    call.

    Under torchrun every process calls it alike, and they share the work. Raises Ended where another one failed.
    """
    folder, team = Path(out), Team.join()
    progress = (progress or Progress("quiet")) if team.leads else Progress("quiet")
    chosen = [known.get(name) for name in outputs or known.names()]
    store = Store(folder, report=progress.print)
    with (
        team.together(),
        store.locked() if team.leads else nullcontext(),
        alike(team, store, config) as (config, said),
        full_float32(),  # what attacks call a success is judged as they did
        deterministic(),
    ):
        ctx = prepare(config, folder, chosen, store, progress, team)
        for warning in said:
            ctx.warn(warning)
        first = trained_first(ctx, plan(ctx, chosen))
        if team.leads:
            begin(folder, config.threads, config.training_threads)
        perform(ctx, first)
        ctx.sketch = False
        units = plan(ctx, chosen)
        perform(ctx, [unit for unit in units if unit not in first])
        results = team.settle("results", lambda: show(ctx, chosen, units))
        team.leave()
    return results


def show(ctx: Context, chosen: Sequence[Output], units: Sequence[Unit]) -> Results:
    """Write everything that a reader is given, from finished units; return the results with the stages' times."""
    results = tabulate(ctx, chosen, units)
    draw(ctx, chosen, results)
    results["stages"] = ctx.stages
    write_atomic(ctx.out / "timings.json", json.dumps(ctx.stages, indent=1) + "\n")
    return results


def describe(config: Config, out: Path, outputs: Sequence[str], *, processes: int = 1) -> str:
    """Return what a run would do; nothing is written. Raises ConfigError."""
    chosen = [known.get(name) for name in outputs]
    store = Store(out, readonly=True)
    own = threads_each(store, config, processes)
    with full_float32(), deterministic(), threads(own):  # as fast as the run will be
        ctx = prepare(config, out, chosen, store, Progress("quiet"))
        return dry.describe(ctx, outputs, lambda ctx: plan(ctx, chosen), processes=processes)


def plan(ctx: Context, chosen: Sequence[Output]) -> list[Unit]:
    """Return the units of work of some outputs, what is needed first."""
    units = [unit for output in chosen for unit in output.needs(ctx)]
    if ctx.config.user_defence:
        units += needed_for(ctx, "point")
    return closure(ctx, units)


def trained_first(ctx: Context, units: Sequence[Unit]) -> list[Unit]:
    """Return the training that others of the units build on: which examples are drawn is known after it."""
    needed = {DrawnExamples(), *(need for unit in units for need in unit.needs(ctx))}
    return [unit for unit in units if unit.stage == STAGES[0] and unit in needed]


def prepare(
    config: Config,
    out: Path,
    chosen: Sequence[Output],
    store: Store,
    progress: Progress,
    team: Team | None = None,
) -> Context:
    """Load the data and check all settings. Raises ConfigError."""
    team = team or Team()
    device = find_device(config.device, team)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # libraries take the current one
    names = tuple(output.name for output in chosen)
    given = given_network(config)
    dataset = load_data(config, given, progress=progress.mode == "bars")
    ctx = Context(resolved(config, device), store, progress, device, dataset, out, names, team, given)
    for unit in plan(ctx, chosen):
        unit.check(ctx)
    return ctx


# ---- from finished work to files


def tabulate(ctx: Context, chosen: Sequence[Output], units: Sequence[Unit]) -> Results:
    """Write results.json and the tables; return the results."""
    with ctx.progress.stage("tabulate", 2) as bar:
        results = collect(ctx, chosen, units)
        outcomes.write(ctx, units)
        vote_outcomes.write(ctx, units)
        write_atomic(ctx.out / "results.json", json.dumps(results, indent=1, sort_keys=True) + "\n")
        bar.advance()
        export.write(results, ctx.out)
        bar.advance()
    note(ctx, "tabulate", 0.0, reused=all(stage["reused"] for stage in ctx.stages))
    return results


def collect(ctx: Context, chosen: Sequence[Output], units: Sequence[Unit]) -> Results:
    """Return everything that was measured."""
    dataset = ctx.dataset
    measured = {getattr(unit, "judge", None) for unit in units}
    results: Results = {
        "config": ctx.config.as_dict(),
        "dataset": {
            "name": dataset.name,
            "shape": list(dataset.shape),
            "num_classes": dataset.num_classes,
            "sizes": {
                "train": len(dataset.train),
                "validation": len(dataset.validation),
                "test": len(dataset.test),
            },
        },
        "environment": environment.describe(ctx.device),
        "outputs": [output.name for output in chosen],
        "defences": [own.name for own in judges(ctx) if own.name in measured],
        "direct": direct(units),
        "warnings": [],
        "accuracy": [],
        "attacks": [],
        "grids": {},
    }
    if LearntLength() in units:
        results["length"] = searched(ctx)
    for output in chosen:
        merge(results, output.measure(ctx))  # type: ignore[arg-type]
    attacked = dict.fromkeys(unit.case.network for unit in units if isinstance(unit, NetworkAttack))
    drawn = examples(ctx).drawn if attacked else 0
    if attacked and drawn < ctx.config.protocol.examples:
        ctx.warn(f"only {drawn} of {ctx.config.protocol.examples} examples are classified correctly")
    if DrawnExamples() in units and not ctx.part(DrawnExamples()).info.get("repeats", True):
        ctx.warn(
            "the undefended network answers differently each time it is given the same input: what it says, and what "
            "attacks find on it, varies from run to run"
        )
    # Said in the summary at the end and in the report.
    results["warnings"] = [*ctx.warnings, *cautions(results, drawn=drawn, networks=attacked)]
    return results


def direct(units: Sequence[Unit]) -> dict[str, list[str]]:
    """Return the attacks that were made against each defence itself, whatever else they were tried on."""
    found: dict[str, dict[str, None]] = {}
    for unit in units:
        if isinstance(unit, AdversarialLabels) and unit.made.case.network == unit.judge:
            found.setdefault(unit.judge, {})[str(unit.made.case)] = None
    return {name: list(cases) for name, cases in found.items()}


def merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add what an output measured: tables key by key, rows that are not there yet, anything else in place."""
    for key, value in more.items():
        there = into.get(key)
        if isinstance(value, Mapping) and isinstance(there, dict):
            merge(there, value)
        elif isinstance(there, list) and all(isinstance(row, Mapping) for row in [*there, *value]):
            there += [row for row in value if row not in there]
        else:
            into[key] = value


def draw(ctx: Context, chosen: Sequence[Output], results: Results) -> None:
    """Write the figures, drawn anew only when what they show has changed, and report.html."""
    inputs = {
        "version": DRAWING,
        "results": digest({key: value for key, value in results.items() if key != "stages"}),
        "files": {name: _sha256(ctx.out / name) for output in chosen for name in output.files(results)},
        "code": sorted({_sha256(path) for path in _sources(chosen)}),
    }
    with ctx.progress.stage("draw", 2, "parts") as bar:
        part = ctx.store.find("draw", inputs)
        reused = part is not None and all(
            _sha256(ctx.out / name) == sha for name, sha in part.info["files"].items()
        )
        if part is None or not reused:
            bar.say("figures")
            start = time.perf_counter()
            written = drawing.write(results, ctx.out)
            files = {str(path.relative_to(ctx.out)): _sha256(path) for path in written}
            seconds = time.perf_counter() - start
            part = ctx.store.save("draw", inputs, {}, seconds=seconds, info={"files": files})
        bar.advance()
        note(ctx, "draw", part.seconds, reused=reused)
        bar.say("report")
        report.write({**results, "stages": ctx.stages}, ctx.out)
        bar.advance()


def _sources(chosen: Sequence[Output]) -> list[Path]:
    """Return the files that say what the figures look like: the package's, and those of outputs from elsewhere."""
    found = set(Path(str(known.__file__)).parent.glob("*.py"))
    found |= {Path(inspect.getfile(type(output))) for output in chosen}
    return sorted(found)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
