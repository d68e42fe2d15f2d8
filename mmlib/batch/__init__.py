"""Running notebooks in batch: suites, processes, pages. The core never imports it."""

import sys

# A grammar of addresses that jsonschema, and so nbformat, spends a second building where it is installed. No notebook
# needs it; every process of a batch would pay for it.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
