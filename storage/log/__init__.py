"""The log: every accepted change is one entry in it, and everything else follows it.

Reading order: `entries`, `log`, `tail`, `change_log`, `replica`.
"""
