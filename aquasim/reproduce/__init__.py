"""Published evaluations run again: what a paper says beside what is simulated, claim by claim."""

from aquasim.reproduce.finding import Finding, Range, Row
from aquasim.reproduce.jobs import Job, Outcome, run_jobs

__all__ = ["Finding", "Job", "Outcome", "Range", "Row", "run_jobs"]
