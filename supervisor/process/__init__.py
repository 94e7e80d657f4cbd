"""The only place that touches process ids: stamps, facts, pidfds. What it reports is data; `judge` decides, purely."""
