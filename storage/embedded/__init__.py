"""The change log of a single process: nothing is shared.

Reading order: `change_log`.
"""
