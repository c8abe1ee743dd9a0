"""A whole run through the real driver, with workers that sleep by a cost model and fail: see docs/scale.md."""
