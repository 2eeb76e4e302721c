"""Many edits: a table of cases and edits becomes jobs, a ledger says what became of each."""
