"""Last stage: figures, drawn anew only when what they show has changed, and the report."""

import hashlib
import time
from pathlib import Path

from rcfast.eval import figures, plots, records, report, statistics
from rcfast.eval.results import Results
from rcfast.eval.stages.context import Context, Tally
from rcfast.eval.store import digest

VERSION = 1


def run(ctx: Context, results: Results) -> None:
    """Write the figures and report.html."""
    tally = Tally()
    inputs = {
        "version": VERSION,
        "results": digest({key: value for key, value in results.items() if key != "stages"}),
        "grids": {name: _sha256(ctx.out / grid["file"]) for name, grid in results["grids"].items()},
        "code": [_sha256(Path(str(module.__file__))) for module in (figures, plots, records, statistics)],
    }
    with ctx.progress.stage("draw", 2, "parts") as bar:
        part = ctx.ready("draw", inputs)
        if part is not None and all(
            _sha256(ctx.out / name) == sha for name, sha in part.info["files"].items()
        ):
            tally.add(part, reused=True)
        else:
            bar.say("figures")
            start = time.perf_counter()
            written = figures.write(results, ctx.out)
            files = {str(path.relative_to(ctx.out)): _sha256(path) for path in written}
            seconds = time.perf_counter() - start
            tally.add(
                ctx.store.save("draw", inputs, {}, seconds=seconds, info={"files": files}), reused=False
            )
        bar.advance()
        ctx.stages.append(tally.time("draw"))
        bar.say("report")
        report.write({**results, "stages": ctx.stages}, ctx.out)
        bar.advance()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
