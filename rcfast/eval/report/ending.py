"""What a run says at its end, as plain text."""

from pathlib import Path
from textwrap import wrap

from rcfast.eval import outputs
from rcfast.eval.outputs.records import number
from rcfast.eval.report.verdict import headline
from rcfast.eval.results import Results
from rcfast.eval.run.progress import duration


def ending(results: Results, page: Path | None = None) -> str:
    """Return the end of a run: r, what each output has to say, the headline, warnings, time.

    page: where the report is.
    """
    dataset = results["dataset"]
    lines = [
        f"{dataset['name']}: {dataset['num_classes']} labels, {dataset['sizes']['test']:,} test examples"
    ]
    if length := results.get("length"):
        how = f"learnt on {length['n']:,} validation examples" if length.get("learnt", True) else "given"
        lines.append(f"length r = {number(length['r'])}, {how}")
    for output in outputs.of(results):
        if said := output.summary(results):
            lines += ["", *said]
    lines += ["", *wrap(headline(results), 100), ""]
    lines += [f"warning: {text}" for text in results["warnings"]]
    if stages := results.get("stages"):
        lines.append(f"time of all stages, now or before: {duration(sum(s['seconds'] for s in stages))}")
    lines += [f"report: {page}"] if page else []
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"
