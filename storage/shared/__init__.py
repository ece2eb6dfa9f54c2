"""What processes share beside the log: values that may be missing, and advisory locks.

Reading order: `cache`, `locks`.
"""
