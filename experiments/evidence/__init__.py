"""From published figures and records of runs to tables and pages."""
