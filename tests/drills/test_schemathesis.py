"""The OpenAPI document and the running service agree: thousands of generated requests, right and wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ADMIN_TOKEN, Service

SEED = 20260301
CASES_PER_OPERATION = 25
DEADLINE_S = 240

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "allow_header_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
    "use_after_free",
    "ensure_resource_availability",
)
"""All but `positive_data_acceptance`: rules between fields, and codes of the price list, are in no schema."""


@pytest.mark.slow
def test_every_generated_request_is_answered_as_documented(service: Service, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {ADMIN_TOKEN}"),
        *("--checks", ",".join(CHECKS)),
        *("--phases", "examples,coverage,fuzzing"),
        *("--max-examples", str(CASES_PER_OPERATION)),
        *("--seed", str(SEED), "--generation-database", "none", "--no-shrink"),
        *("--continue-on-failure", "--warnings", "off", "--no-color"),
    ]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=DEADLINE_S, check=False
    )
    assert run.returncode == 0, f"seed {SEED}\n{run.stdout[-20_000:]}\n{run.stderr[-2_000:]}"
    assert "generated" in run.stdout, run.stdout
