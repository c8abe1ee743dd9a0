"""report.html: a run as one page without network, its figures as charts and its samples to be searched through."""
