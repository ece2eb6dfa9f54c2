"""Who may call.

Reading order: `tokens`.
"""
