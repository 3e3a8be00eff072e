"""Prove from the records, the weights and the store that nothing of a test slide taught a run.

Nothing here believes what a record says of itself where it can be worked out again.
"""

from spahgc.model.audit.evidence import Finding
from spahgc.model.audit.running import CHECKS, audit_run

__all__ = ["CHECKS", "Finding", "audit_run"]
