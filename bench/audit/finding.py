"""What a check returns: a result and the figures it rests on, in words."""

from __future__ import annotations

from bench.results.record import CheckResult

Finding = tuple[CheckResult, str]
PASS, FAIL, NA = CheckResult.PASS, CheckResult.FAIL, CheckResult.NOT_APPLICABLE
