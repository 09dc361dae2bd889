"""Table 2: how many examples each part of the data has."""

from pathlib import Path

from rcfast.eval import paper
from rcfast.eval.outputs.cells import published_note
from rcfast.eval.outputs.output import Output
from rcfast.eval.outputs.table import Record, Table
from rcfast.eval.results import Results


class Table2(Output):
    name = "table2"
    title = "Sizes of the data splits"
    reading = "How many examples each part has. The validation part is benign and serves r alone."

    def build(self, results: Results, folder: Path) -> Table:
        dataset, published = results["dataset"], paper.split(results["dataset"]["name"])
        records: list[Record] = []
        for index, part in enumerate(("train", "validation", "test")):
            size = dataset["sizes"][part]  # type: ignore[literal-required]
            records.append(
                {"split": part, "size": size, "paper_size": published[index] if published else None}
            )
        header: tuple[str, ...] = ("Split", "Examples") + (("Paper",) if published else ())
        rows: list[tuple[str, ...]] = [
            (r["split"], f"{r['size']:,}") + ((f"{r['paper_size']:,}",) if published else ()) for r in records
        ]
        return Table(self.name, self.title, published_note(dataset["name"]), records, header, rows)


OUTPUT = Table2()
