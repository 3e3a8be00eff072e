"""Work out again what a run was made of, as far as that takes seconds, and name what leaked.

What is quickly fitted is fitted again and compared with the run's weights; what is not, a graph
network, is said not to have been checked. Nothing here believes what a record says of itself where
it can be worked out again.
"""

from spahgc.model.audit.evidence import Finding
from spahgc.model.audit.running import CHECKS, audit_run

__all__ = ["CHECKS", "Finding", "audit_run"]
