"""Tests of `orchestrator.reports.progress`."""
