"""What an attack returns: adversarial examples, whether they succeed, and how far they moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from rcfast.hardware import full_float32

NORMS = (0, 2, float("inf"))


def check_norm(norm: float) -> float:
    if norm not in NORMS:
        raise ValueError(f"norm must be one of 0, 2, inf, got {norm!r}")
    return norm


@dataclass(frozen=True, eq=False)
class Noise:
    """Size of the change of each example.

    l0 [N]: coordinates changed at all (every channel of a pixel counts as one coordinate); l2 [N]: Euclidean
    length; linf [N]: largest change of a coordinate. All in the dtype of the inputs, all on inputs in [0,1].
    """

    l0: Tensor
    l2: Tensor
    linf: Tensor

    @classmethod
    def between(cls, adversarial: Tensor, clean: Tensor) -> Noise:
        """Noise of adversarial [N,...] against clean [N,...]."""
        delta = (adversarial - clean).reshape(len(clean), clean[:1].numel() if len(clean) else 1)
        magnitude = delta.abs()
        return cls(
            l0=(magnitude > 0).sum(1).to(delta.dtype),
            l2=torch.linalg.vector_norm(delta, dim=1),
            linf=magnitude.amax(1),
        )

    def of(self, norm: float) -> Tensor:
        """The noise [N] in norm 0, 2 or inf. Raises ValueError for any other norm."""
        return {0: self.l0, 2: self.l2, float("inf"): self.linf}[check_norm(norm)]

    def __len__(self) -> int:
        return len(self.l2)


@dataclass(frozen=True, eq=False)
class AttackResult:
    """Outcome of an attack on N examples, in the order of the inputs.

    adversarial [N,...] in [0,1], dtype of the inputs; success [N] bool, judged by the attacked model; noise:
    Noise; queries [N] int64, forward passes spent on each example; clean [N,...], the inputs themselves. A
    failed example is the clean input with noise 0 and success False. candidates: results of the parts of a
    combined attack (one for each target, attack, ...), each with N rows; names: what each candidate is, for
    example the target class. A plain attack has none.
    """

    adversarial: Tensor
    success: Tensor
    noise: Noise
    queries: Tensor
    clean: Tensor
    candidates: tuple[AttackResult, ...] = field(default=(), repr=False)
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.success)

    def __repr__(self) -> str:
        shape = tuple(self.adversarial.shape[1:])
        parts = f", candidates={len(self.candidates)}" if self.candidates else ""
        noise = "".join(
            f", {n}={self.mean_noise(p):.4g}" for n, p in zip(("l0", "l2", "linf"), NORMS, strict=True)
        )
        return f"AttackResult(n={len(self)}, shape={shape}, success={self.success_rate:.4g}{noise}{parts})"

    @property
    def success_rate(self) -> float:
        """Share of all examples that succeeded; NaN when there are none."""
        return float(self.success.double().mean()) if len(self) else float("nan")

    def mean_noise(self, norm: float) -> float:
        """Mean noise over the successful examples in norm 0, 2 or inf; NaN when none succeeded."""
        noise = self.noise.of(norm)[self.success]
        return float(noise.double().mean()) if len(noise) else float("nan")

    def leaves(self) -> tuple[AttackResult, ...]:
        """The candidates of the candidates, down to plain attacks; the result itself where there are none."""
        if not self.candidates:
            return (self,)
        return tuple(leaf for candidate in self.candidates for leaf in candidate.leaves())

    def map(self, function: Callable[[Tensor], Tensor]) -> AttackResult:
        """The same result with `function` applied to every tensor of it, candidates included."""
        noise = Noise(**{f.name: function(getattr(self.noise, f.name)) for f in fields(Noise)})
        return AttackResult(
            adversarial=function(self.adversarial),
            success=function(self.success),
            noise=noise,
            queries=function(self.queries),
            clean=function(self.clean),
            candidates=tuple(c.map(function) for c in self.candidates),
            names=self.names,
        )

    def to(self, device: torch.device | str) -> AttackResult:
        """The result on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def select(self, rows: Tensor | slice) -> AttackResult:
        """The result for some rows: int64 indices, a bool mask [N] or a slice."""
        return self.map(lambda tensor: tensor[rows])

    @staticmethod
    def concatenate(results: Sequence[AttackResult]) -> AttackResult:
        """Results of the same attack on several sets of examples, as one. ValueError if there are none."""
        if not results:
            raise ValueError("results must not be empty")
        first = results[0]
        if any(r.names != first.names or len(r.candidates) != len(first.candidates) for r in results):
            raise ValueError("results must come from the same attack: their candidates differ")

        def join(get: Callable[[AttackResult], Tensor]) -> Tensor:
            return torch.cat([get(r) for r in results])

        return AttackResult(
            adversarial=join(lambda r: r.adversarial),
            success=join(lambda r: r.success),
            noise=Noise(*(torch.cat([getattr(r.noise, f.name) for r in results]) for f in fields(Noise))),
            queries=join(lambda r: r.queries),
            clean=join(lambda r: r.clean),
            candidates=tuple(
                AttackResult.concatenate(parts)
                for parts in zip(*(r.candidates for r in results), strict=True)
            ),
            names=first.names,
        )

    def judged(
        self, labels_of: Callable[[Tensor], Tensor], labels: Tensor, *, targeted: bool, norm: float
    ) -> AttackResult:
        """The least noisy candidate that another classifier accepts, without attacking again.

        labels_of maps inputs [n,...] to labels [n] int64 (for example `RegionClassifier.predict`); labels [N]
        int64 are targets (targeted: accepted when the judge says the label) or true labels (accepted when it
        does not). Every example asks the judge about its candidates in order of their noise in `norm` and
        stops at the first that is accepted. Candidates with which an attack failed are not shown. The
        candidates stay available on the result.

        Raises ValueError if labels has another length than the result or norm is not 0, 2 or inf.
        """
        return self.judged_by_rows(lambda x, rows: labels_of(x), labels, targeted=targeted, norm=norm)

    def judged_by_rows(
        self, labels_of: Callable[[Tensor, Tensor], Tensor], labels: Tensor, *, targeted: bool, norm: float
    ) -> AttackResult:
        """The same by a judge that is also told which rows [n] of the result its inputs [n,...] belong to."""
        check_norm(norm)
        if labels.shape != self.success.shape:
            raise ValueError(f"labels must have shape {tuple(self.success.shape)}, got {tuple(labels.shape)}")
        leaves = self.leaves()
        noise = torch.stack([leaf.noise.of(norm) for leaf in leaves])  # [K,N]
        shown = torch.stack([leaf.success | (leaf.noise.linf > 0) for leaf in leaves])  # [K,N]
        order = noise.masked_fill(~shown, float("inf")).argsort(dim=0, stable=True)
        adversarial, success = self.clean.clone(), torch.zeros_like(self.success)
        stacked = [leaf.adversarial for leaf in leaves]
        for choice in order:  # [N]: the leaf that every example tries next
            rows = (~success & shown.gather(0, choice[None])[0]).nonzero().flatten()
            if not len(rows):
                break
            tried = torch.stack(
                [stacked[k][i] for i, k in zip(rows.tolist(), choice[rows].tolist(), strict=True)]
            )
            with full_float32():  # as they were found
                said = labels_of(tried, rows).to(labels.device)
            accepted = (said == labels[rows]) if targeted else (said != labels[rows])
            adversarial[rows[accepted]] = tried[accepted]
            success[rows[accepted]] = True
        chosen = Noise.between(adversarial, self.clean)
        return replace(self, adversarial=adversarial, success=success, noise=chosen)


def least_noise(
    candidates: Sequence[AttackResult], *, norm: float, names: Sequence[str], queries: Tensor | None = None
) -> AttackResult:
    """For every example the successful candidate with the least noise in `norm`; the first one on a tie.

    queries [N] int64: forward passes spent beyond those of the candidates.
    """
    clean = candidates[0].clean
    noise = torch.stack([c.noise.of(norm).masked_fill(~c.success, float("inf")) for c in candidates])  # [K,N]
    best = noise.argmin(0)
    adversarial = clean.clone()
    for k, candidate in enumerate(candidates):
        rows = (best == k) & candidate.success
        adversarial[rows] = candidate.adversarial[rows]
    spent = torch.stack([c.queries for c in candidates]).sum(0)
    return AttackResult(
        adversarial=adversarial,
        success=torch.stack([c.success for c in candidates]).any(0),
        noise=Noise.between(adversarial, clean),
        queries=spent if queries is None else spent + queries,
        clean=clean,
        candidates=tuple(candidates),
        names=tuple(names),
    )
