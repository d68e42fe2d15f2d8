"""The papers' data: readers of official lists, decoding, preparation, stand-ins. The core never imports it."""
