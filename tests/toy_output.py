"""An output from outside the package, with a kind of work of its own: how much light the drawn examples hold."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcfast.eval import outputs
from rcfast.eval.outputs import Cell, Finding, KeyFigure, Matrix, Output, Table
from rcfast.eval.results import Results
from rcfast.eval.run.context import Context
from rcfast.eval.run.examples import DrawnExamples, examples
from rcfast.eval.run.pace import Pace
from rcfast.eval.run.unit import Made, Unit


@dataclass(frozen=True)
class Light(Unit):
    """Mean value of the drawn examples' coordinates."""

    power: int = 1
    kind, stage = "light", "light"

    def __str__(self) -> str:
        return "the light of the examples"

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield DrawnExamples()

    def inputs(self, ctx: Context) -> dict[str, Any]:
        return {"examples": ctx.part(DrawnExamples()).digest, "power": self.power}

    def compute(self, ctx: Context) -> Made:
        own = examples(ctx)
        return Made({"light": (own.x[: own.drawn] ** self.power).flatten(1).mean(1).cpu().numpy()})

    def seconds(self, ctx: Context, pace: Pace) -> float:
        return 0.5


class LightTable(Output):
    name = "light"
    title = "How light the examples are"
    reading = "A white image has 1."

    def needs(self, ctx: Context) -> Iterable[Unit]:
        yield Light()

    def measure(self, ctx: Context) -> Mapping[str, Any]:
        return {"light": [float(value) for value in ctx.arrays(Light())["light"]]}

    def build(self, results: Results, folder: Path) -> Table | None:
        values: list[float] = results.get("light", [])  # type: ignore[assignment]
        records = [{"example": index, "light": round(value, 6)} for index, value in enumerate(values)]
        rows = [(str(r["example"]), f"{r['light']:.2f}") for r in records]
        matrix = Matrix([("Example", ""), ("Light", "")], [((a, ""), [Cell(b)]) for a, b in rows])
        return Table(self.name, self.title, "Of one.", records, ("Example", "Light"), rows, matrix=matrix)

    def findings(self, results: Results) -> Iterator[Finding]:
        yield Finding("Region-based", "Light was measured <too>.")

    def key_figures(self, results: Results) -> Iterator[KeyFigure]:
        yield KeyFigure("1", "lamp", "of glass")

    def clause(self, results: Results) -> str:
        return "needs light"

    def summary(self, results: Results) -> list[str]:
        return ["Light was measured"]


outputs.register(LightTable())
