"""Orders' nouns and rules, the cache tiers, the log, write-behind and the database.

Imports neither `server` nor `pricing`. Where to start: `orders.py` (the contract), `book.py` (changes),
`read_through.py` (reads), `write_behind.py` (the way to the database).
"""
