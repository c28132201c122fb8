"""Evidence: grids of runs, what they say together, and the ledger of claims.

`grid` declares runs, `run` does one and `pool` many, `designs` holds those behind the ledger;
`analysis` reads their records, `claims` says what is claimed and what tests it, and `ledger` writes
the verdicts down. `segkit reproduce` does all of it.
"""
