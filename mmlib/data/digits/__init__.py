"""The two data sets of spoken and written digits, and what can be wrong with their samples."""
