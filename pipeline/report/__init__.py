"""Tables, figures and pages of a study: reads rows, writes files. Knows no storage, no tracker and no
config."""

from pipeline.report.context import Context
from pipeline.report.tables import front_table
from pipeline.report.writing import write

__all__ = ["Context", "front_table", "write"]
