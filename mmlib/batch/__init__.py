"""Running notebooks in batch: suites, processes, pages. The core never imports it."""
