"""What the pieces of `attacks.py --vote` say together, beside what was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from known_seed import known_seed_bars
from vote_speed import speed_bars

Piece = dict[str, Any]
FAR = ("eot Linf 0.66", "eot L2 8", "eot Linf 0.1", "eot L2 3")  # of MNIST and CIFAR-10: nothing holds there


def of(pieces: dict[str, Piece], name: str, part: str = "") -> list[Piece]:
    """The pieces of one attack, image by image."""
    found = {
        int(key.rpartition(" ")[2]): piece for key, piece in pieces.items() if key.rpartition(" ")[0] == name
    }
    return [found[i][part] if part else found[i] for i in sorted(found)]


def images(pieces: dict[str, Piece], name: str) -> list[int]:
    return sorted(int(key.rpartition(" ")[2]) for key in pieces if key.rpartition(" ")[0] == name)


def joined(found: list[Piece], field: str) -> np.ndarray:
    return np.concatenate([np.asarray(piece[field]) for piece in found], axis=-1) if found else np.zeros(0)


def holds(found: list[Piece]) -> np.ndarray:
    """Successes [n] on most fresh seeds."""
    fresh = joined(found, "fresh")
    return 2 * fresh.sum(0) > len(fresh)


def same(
    pieces: dict[str, Piece], a: tuple[str, str], b: tuple[str, str]
) -> tuple[float, float, int, float] | None:
    """Mean L2 noise of a over that of b on what both hold, its standard error over images, on how many rows that is,
    and the worst single ratio."""
    both = sorted(set(images(pieces, a[0])) & set(images(pieces, b[0])))
    if not both:
        return None
    of_a, of_b = ([_part(pieces[f"{name} {i}"], part) for i in both] for name, part in (a, b))
    rows = holds(of_a) & holds(of_b)
    if not rows.any():
        return None
    x, y = joined(of_a, "l2")[rows], joined(of_b, "l2")[rows]
    each = np.concatenate([[place] * len(piece["l2"]) for place, piece in enumerate(of_a)])[rows]
    without = [x[each != i].mean() / y[each != i].mean() for i in range(len(both)) if (each != i).any()]
    more = len(without) > 1
    spread = (
        (len(without) - 1) ** 0.5 * float(np.std(without)) if more else np.inf
    )  # the jackknife over images
    return float(x.mean() / y.mean()), spread, int(rows.sum()), float((x / y).max())


def _part(piece: Piece, part: str) -> Piece:
    return piece[part] if part else piece


def untargeted(found: list[Piece]) -> np.ndarray:
    """The least noise of each image among the targets that known votes take, inf where fresh ones do not."""
    least = []
    for piece in found:
        noise = np.where(piece["own"], piece["l2"], np.inf)
        least.append(noise.min() if holds([piece])[noise.argmin()] else np.inf)
    return np.array(least)


def bars(pieces: dict[str, Piece], r: float) -> list[list[str]]:
    """Every bar of a vote with this r, what was measured, and whether it is met, as far as the pieces are there."""
    found: list[tuple[str, str, str, bool]] = []
    own = of(pieces, "region_cw")
    if own:
        fresh, n = joined(own, "fresh").sum(1), len(joined(own, "own"))
        share = min(fresh) / n
        found.append(
            (f"RegionCW, {n} rows: success on fresh seeds", str(fresh.tolist()), "89 of 90", share >= 89 / 90)
        )
        if holds(own).any():
            noise = joined(own, "l2")[holds(own)].mean()
            found.append(("RegionCW: mean L2", f"{noise:.3f}", "", True))
        eight = joined(own, "rounded").sum(1)
        found.append(("RegionCW: success rounded to 8 bits", str(eight.tolist()), "", True))
        total = sum(piece["seconds"] for piece in own) / len(own) * 10
        found.append(("RegionCW: seconds for 10 images, one by one", f"{total:.0f}", "", True))
    stored = [pieces[f"levels=255 {i}"] for i in images(pieces, "levels=255")]
    if stored:
        eight, noise = joined(stored, "rounded").sum(1), joined(stored, "l2").mean()
        said = f"{eight.tolist()} of {len(joined(stored, 'l2'))}, mean L2 {noise:.3f}"
        found.append(("RegionCW(levels=255): success rounded to 8 bits", said, "", True))
    for key, piece in pieces.items():
        found += speed_bars(piece) if key.startswith("speed") else []
        found += known_seed_bars(piece) if key.startswith("known_seed") else []
    for a, b, what, most, each in (
        (("region_cw", ""), ("combined", "plain"), "RegionCW over CA-L2", 0.75, False),
        (("region_cw", ""), ("combined", "lengthened"), "RegionCW over CA-L2 with Adapted", 1.0, False),
        (("seed=1", ""), ("combined", "plain"), "RegionCW with another seed over CA-L2", 0.75, False),
        (("levels=255", ""), ("region_cw", ""), "RegionCW(levels=255) over RegionCW", np.inf, False),
        (("region_cw", ""), ("opt_margin", ""), "RegionCW over OptMargin as published", 1.0, False),
        (("region_cw", ""), ("opt_margin_near", ""), "RegionCW over OptMargin within the region", 1.0, False),
        (("combined", "started"), ("combined", "plain"), "RegionCW started at CA-L2 over it", 1.0, True),
    ):
        ratio = same(pieces, a, b)
        if ratio:
            said = f"{ratio[0]:.3f} ± {ratio[1]:.3f} on {ratio[2]}, worst single {ratio[3]:.3f}"
            bar = (f"at most {most:g}" + " each" * each) if most < np.inf else ""
            found.append((f"{what}: L2 noise", said, bar, ratio[3 if each else 0] <= most))
    for name in ("seed=1", "opt_margin", "opt_margin_near"):
        if other := of(pieces, name):
            said = f"{joined(other, 'fresh').sum(1).tolist()} of {len(joined(other, 'own'))}"
            found.append((f"{name}: success on fresh seeds", said, "", True))
    found += _untargeted(pieces)
    found += _apgd(pieces)
    for key, piece in pieces.items():
        if key.startswith("eot"):
            rates = np.asarray(piece["fresh"]).mean(1).tolist()
            far = key in FAR
            found.append(
                (
                    f"APGD on the vote, {key[4:]}: success",
                    str(rates),
                    "1" if far else "",
                    not far or min(rates) == 1,
                )
            )
    found += _trends(pieces, r)
    return [[*cells, ("met" if met else "MISSED") if cells[2] else ""] for *cells, met in found]


def _untargeted(pieces: dict[str, Piece]) -> list[tuple[str, str, str, bool]]:
    both = sorted(set(images(pieces, "region_cw")) & set(images(pieces, "combined")))
    found = []
    if both:
        ours = untargeted([pieces[f"region_cw {i}"] for i in both])
        theirs = untargeted([pieces[f"combined {i}"]["plain"] for i in both])
        count = int(np.isfinite(ours).sum())
        found.append(("untargeted RegionCW: images", f"{count} of {len(both)}", "all", count == len(both)))
        rows = np.isfinite(ours) & np.isfinite(theirs)
        ratio = float(ours[rows].mean() / theirs[rows].mean())
        said = f"{ratio:.3f} ({ours[rows].mean():.3f} over {theirs[rows].mean():.3f})"
        found.append(("untargeted RegionCW over U-CA-L2: L2 noise", said, "at most 0.85", ratio <= 0.85))
    hop = images(pieces, "hop_skip_jump")
    hop = [i for i in hop if f"region_cw {i}" in pieces]
    if hop:
        ours = untargeted([pieces[f"region_cw {i}"] for i in hop])
        theirs = untargeted([pieces[f"hop_skip_jump {i}"] for i in hop])
        said = f"{[round(float(v), 2) for v in theirs]}, RegionCW {[round(float(v), 2) for v in ours]}"
        found.append(
            ("HopSkipJump on the vote: L2 noise", said, "more than RegionCW", bool((theirs > ours).all()))
        )
    return found


def _apgd(pieces: dict[str, Piece]) -> list[tuple[str, str, str, bool]]:
    found = []
    for key, piece in pieces.items():
        if key.startswith("apgd") and "peer" in piece:
            said = f"{piece['ours']} and {piece['peer']} of {piece['n']} left"
            found.append(
                (
                    f"{key}: accuracy left, ours and AutoAttack's",
                    said,
                    "at most as much",
                    piece["ours"] <= piece["peer"],
                )
            )
            said = f"{piece['ours_seconds']:.1f} s and {piece['peer_seconds']:.1f} s"
            found.append(
                (f"{key}: time", said, "at most as much", piece["ours_seconds"] <= piece["peer_seconds"])
            )
    return found


def _trends(pieces: dict[str, Piece], r: float) -> list[tuple[str, str, str, bool]]:
    """Noise as r grows, and success as m grows, on the images that all have."""
    found = []
    names = {
        times * r: "region_cw" if times == 1 else f"r={times * r:g}" for times in (1 / 3, 2 / 3, 1, 4 / 3)
    }
    both = sorted(set.intersection(*(set(images(pieces, name)) for name in names.values())))
    each = [[pieces[f"{name} {i}"] for i in both] for name in names.values()]
    # A row that fails has no noise.
    rows = np.all([joined(found, "fresh").all(0) for found in each], 0) if both else np.zeros(0, bool)
    if rows.any():
        means = [float(joined(found, "l2")[rows].mean()) for found in each]
        said = ", ".join(f"{r:g}: {mean:.3f}" for r, mean in zip(names, means, strict=True))
        said += f" ({rows.sum()} of {len(rows)} rows)"
        found.append(("mean L2 by r", said, "rises", means == sorted(means)))
    names_m = {100: "m=100", 1000: "region_cw", 10_000: "m=10000"}
    both = set.intersection(*(set(images(pieces, name)) for name in names_m.values()))
    if both:
        rates = {
            m: float(np.mean([np.mean(pieces[f"{name} {i}"]["fresh"]) for i in both]))
            for m, name in names_m.items()
        }
        n = sum(len(pieces[f"region_cw {i}"]["l2"]) for i in both)  # rows
        said = ", ".join(f"{m}: {rate:.1%}" for m, rate in rates.items())
        half = 1.96 * (0.25 / n) ** 0.5
        found.append((f"success by m, n = {n}", said, "does not fall", rates[10_000] >= rates[100] - half))
    return found
