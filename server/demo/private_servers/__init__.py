"""Private Valkey and PostgreSQL servers, without root or containers: for the demo, tests and benchmarks.

Reading order: `servers`, `valkey`, `postgres`, `process`, `programs`.
"""
