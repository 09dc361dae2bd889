"""What a reader looks at: the page, and the text at the end of a run; outputs are known by their interface alone."""

from rcfast.eval.report.ending import ending
from rcfast.eval.report.page import page, write

__all__ = ["ending", "page", "write"]
