"""The README's examples run as they stand."""

import re
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_readmes_python_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 2
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    correct = float(re.search(r"([\d.]+)% correct", printed)[1])
    used = float(re.search(r"(\d+) of 1000 samples", printed)[1])
    assert correct > 90
    assert used < 500
