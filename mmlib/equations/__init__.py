"""The papers' equations as pure functions and small modules."""
