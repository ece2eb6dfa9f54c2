"""What operators and monitoring call.

Reading order: `health`, `cache`, `backups`.
"""
