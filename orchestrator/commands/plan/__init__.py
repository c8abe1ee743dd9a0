"""`ratchet plan`: what a job would do, and what it would take, before anything of it runs."""
