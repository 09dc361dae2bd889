"""Certified accuracy: the share of test examples that no shift up to a radius can make wrong, by proof."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcfast.certificates import bounds
from rcfast.eval import outputs
from rcfast.eval.outputs.export import csv_text
from rcfast.eval.outputs.outcomes import attempts
from rcfast.eval.outputs.output import Finding, Output
from rcfast.eval.outputs.records import columns, percent, percent_range, rounded, size_text
from rcfast.eval.outputs.table import Bar, Cell, Matrix, Record, Table
from rcfast.eval.outputs.worst import AllAttacks, all_labels, labels_of
from rcfast.eval.results import CertifiedCase, Results
from rcfast.eval.run import certify
from rcfast.eval.run.certify import CertifiedExamples
from rcfast.eval.run.config import StageError
from rcfast.eval.run.context import Context
from rcfast.eval.run.defences import region_classifier
from rcfast.eval.run.examples import examples
from rcfast.eval.run.labels import AdversarialLabels
from rcfast.eval.run.length import length
from rcfast.eval.run.networks import network
from rcfast.eval.run.store import write_atomic
from rcfast.eval.run.unit import Unit
from rcfast.eval.statistics import wilson

NORMS = ("L1", "L2", "Linf")
FILE = "certificates.csv"
SUMMED = 2  # radii that a line of the summary has room for
SECTION = "Certificates"
CONFIRM, SURE = 10_000, 1e-6  # points and error with which a contradiction is confirmed before it ends a run


class Certified(Output):
    name = "certified"
    title = "Certified accuracy against the radius"
    section = SECTION
    derived = True
    reading = (
        "The share of test examples that are labelled correctly by the largest share of the region, provably so for "
        "every input nearer than the radius, with 95% intervals; radii are in the norm of the region's theorem. ACR is "
        "the average certified radius, 0 for a wrong label. What is proven is a bound: attacks may need far more."
    )

    def needs(self, ctx: Context) -> Iterable[Unit]:
        for spec, noisy in certify.cases(ctx.config):
            yield from certify.blocks(ctx, spec, noisy=noisy)
        if ctx.config.certify.regions and _attacks(ctx):
            yield _of_attacked(ctx)

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        if not ctx.config.certify.regions:
            return {}
        if _attacks(ctx):
            refuse_contradictions(ctx)
        rows: list[CertifiedCase] = []
        lines: list[Record] = []
        for spec, noisy in certify.cases(ctx.config):
            units = list(certify.blocks(ctx, spec, noisy=noisy))
            norm, found = ctx.part(units[0]).info["norm"], certify.joined(ctx, units)
            rows.append(_case(ctx, spec, noisy, norm, found))
            lines += _lines(spec, noisy, found)
        write_atomic(ctx.out / FILE, csv_text(lines))
        return {"certified": rows}

    def build(self, results: Results, folder: Path) -> Table | None:
        found = results.get("certified", [])
        if not found:
            return None
        records = [record for case in found for record in _records(case)]
        radii = found[0]["table_radii"]
        header = (
            "Region",
            "Network",
            "Norm",
            *(f"at {radius:g}" for radius in radii),
            "ACR",
            "Abstained",
            "n",
        )
        rows = [
            (
                *(case["region"], _network(case), case["norm"]),
                *(percent(r["rate"], case["n"]) for r in _records(case)),
                *(size_text(case["acr"]), percent(case["abstained"] / case["n"]), str(case["n"])),
            )
            for case in found
        ]
        return Table(
            self.name, self.title, self.reading, records, header, rows, named=3, matrix=_matrix(found)
        )

    def read(self, results: Results) -> str:
        found = results.get("certified", [])
        if not found:
            return self.reading
        own = results["config"]["certify"]
        checked = found[0]["checked"]
        said = f" Each example has {own['n']:,} points at most and an error of at most {own['alpha']:g}."
        if checked:
            said += f" None of {checked:,} adversarial examples of this run contradicts a certificate."
        return self.reading + said

    def findings(self, results: Results) -> Iterator[Finding]:
        found = results.get("certified", [])
        if not found:
            return
        best = {norm: max((c for c in found if c["norm"] == norm), key=lambda c: c["acr"], default=None)
                for norm in NORMS}  # fmt: skip
        said = [
            f"{size_text(case['acr'])} in {norm} by {case['region']} ({_network(case)})"
            for norm, case in best.items()
            if case
        ]
        yield Finding("", f"The largest average certified radius: {'; '.join(said)}.")

    def summary(self, results: Results) -> list[str]:
        rows = [
            [case["region"], _network(case), case["norm"], f"ACR {size_text(case['acr'])}",
             *(f"{percent(r['rate'], r['n'])} ({percent_range(r['rate_low'], r['rate_high'], r['n'])}) "
               f"at {r['radius']:g}" for r in _records(case)[:SUMMED])]
            for case in results.get("certified", [])
        ]  # fmt: skip
        return ["Certified accuracy", *columns(rows)] if rows else []


def _network(case: CertifiedCase) -> str:
    return "trained with it" if case["noisy"] else "plain"


def _case(ctx: Context, spec: str, noisy: bool, norm: str, found: dict[str, np.ndarray]) -> CertifiedCase:
    own = ctx.config.certify
    right = found["label"] == found["truth"]
    radius = np.where(right, found[norm], 0.0)
    at = np.unique(np.concatenate([[0.0], radius]))
    return {
        "region": repr(certify.region(ctx, spec)),
        "spec": spec,
        "noisy": noisy,
        "norm": norm,
        "n": len(radius),
        "abstained": int((found[norm] <= 0).sum()),
        "acr": float(radius.mean()),
        "median": {name: float(np.median(np.where(right, found[name], 0.0))) for name in NORMS},
        "samples": float(found["samples"].mean()),
        "table_radii": list(own.radii),
        "at": at.tolist(),
        "correct": [int((radius >= max(level, 1e-300)).sum()) for level in at],
        "at_table": [int((radius >= max(level, 1e-300)).sum()) for level in own.radii],
        "checked": _checked(ctx),
    }


def _records(case: CertifiedCase) -> list[Record]:
    records = []
    for radius, correct in zip(case["table_radii"], case["at_table"], strict=True):
        band = wilson(correct, case["n"])
        records.append(
            {
                "region": case["region"],
                "network": _network(case),
                "norm": case["norm"],
                "radius": rounded(radius),
                "rate": rounded(correct / case["n"]),
                "rate_low": rounded(band.low),
                "rate_high": rounded(band.high),
                "correct": correct,
                "n": case["n"],
                "acr": rounded(case["acr"]),
                **{f"median_{name}": rounded(case["median"][name]) for name in NORMS},
                "abstained": case["abstained"],
                "points": rounded(case["samples"]),
            }
        )
    return records


def _lines(spec: str, noisy: bool, found: dict[str, np.ndarray]) -> Iterator[Record]:
    """One line an example."""
    for i in range(len(found["index"])):
        yield {
            "region": spec,
            "trained_with_it": noisy,
            "example": int(found["index"][i]),
            "true_label": int(found["truth"][i]),
            "label": int(found["label"][i]),
            "share_at_least": f"{found['lower'][i]:.9g}",
            "points": int(found["samples"][i]),
            **{name.lower(): f"{found[name][i]:.9g}" for name in NORMS},
        }


def _matrix(found: list[CertifiedCase]) -> Matrix:
    heads = [("Region", ""), *((f"{radius:g}", "radius") for radius in found[0]["table_radii"]), ("ACR", "")]
    rows: list[tuple[tuple[str, str], list[Cell | None]]] = []
    for case in found:
        cells: list[Cell | None] = [
            Cell(
                percent(r["rate"], r["n"]),
                percent_range(r["rate_low"], r["rate_high"], r["n"]),
                bar=Bar(r["rate"], r["rate_low"], r["rate_high"]),
            )
            for r in _records(case)
        ]
        cells.append(Cell(size_text(case["acr"]), numeric=True))
        rows.append(((case["region"], f"{_network(case)}, {case['norm']}"), cells))
    return Matrix(heads, rows)


# ---- certificates against attacks


def _attacks(ctx: Context) -> list[Unit]:
    """The labels by votes of all that the run tries against the region-based classifier."""
    if ctx.sketch or "region" not in ctx.config.defences:
        return []
    every = any(isinstance(outputs.get(name), AllAttacks) for name in ctx.outputs)
    own = all_labels(ctx) if every else labels_of(ctx, ctx.outputs)
    return [unit for unit in own if getattr(unit, "judge", "") == "region"]


def _of_attacked(ctx: Context) -> CertifiedExamples:
    spec = "clamp:r" if ctx.config.vote.clip == "clamp" else "cube:r"
    return CertifiedExamples(spec, False, 0, examples(ctx).drawn, attacked=True)


def _checked(ctx: Context) -> int:
    """How many adversarial examples were held against the certificates of their originals."""
    made = attempts(ctx, _attacks(ctx))
    return sum(part.size(ctx) for _, parts, _ in made for part in parts)


def refuse_contradictions(ctx: Context) -> None:
    """Raise StageError if an adversarial example inside a certified radius has another label of largest share.

    A vote of finitely many points may err there, so that the label is counted anew with more points first.
    """
    proven = ctx.arrays(_of_attacked(ctx))
    drawn = examples(ctx)
    x = drawn.x[: drawn.drawn].cpu().numpy()
    for own, parts, alpha in attempts(ctx, _attacks(ctx)):
        for part in parts:
            made = ctx.arrays(part)["adversarial"].astype(np.float64)
            clean = x[part.rows][:, None].astype(np.float64)
            made = np.clip(clean + (1 + alpha) * (made - clean), 0, 1)
            noise = sizes(made - clean)
            rows = np.arange(part.start, part.stop)[:, None]
            inside = np.any([noise[n] < proven[n][rows] for n in NORMS], axis=0) & (noise["Linf"] > 0)
            for seed in own.seeds:
                said = ctx.arrays(AdversarialLabels(own.name, seed, part, alpha))["said"].reshape(
                    inside.shape
                )
                for i, j in np.argwhere(inside & (said != proven["label"][rows])):
                    _confirm(ctx, made[i, j], int(proven["label"][part.start + i]), str(part.case))


def sizes(noise: np.ndarray) -> dict[str, np.ndarray]:
    """L1, L2 and Linf norms [N,T] of noise [N,T,...]."""
    flat = np.abs(noise).reshape(*noise.shape[:2], -1)
    return {"L1": flat.sum(-1), "L2": np.sqrt((flat**2).sum(-1)), "Linf": flat.max(-1)}


def _confirm(ctx: Context, made: np.ndarray, label: int, attack: str) -> None:
    votes = region_classifier(network(ctx, "point"), length(ctx), ctx.config.vote, seed=2**40)
    x = torch.from_numpy(made[None].astype(np.float32)).to(ctx.device)
    count = votes.tally(x, 0, CONFIRM)[0, label].item()
    if bounds.clopper_pearson_upper(count, CONFIRM, SURE) < 0.5:
        raise StageError(
            f"{attack} made an example inside the certified radius of its original whose region has label {label} for "
            f"{count} of {CONFIRM} points only: a certificate, a kernel or an attack is wrong"
        )


OUTPUT = Certified()
