"""Models on their way in: from the socket to memory or disk, within bounds.

Reading order: `model_body`, `receiving`, `spool`, `multipart`.
"""
