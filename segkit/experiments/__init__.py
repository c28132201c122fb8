"""Evidence: grids of runs, what they say together, and the ledger of claims."""
