"""What only tests and benchmarks use: tiny models of the real classes and layouts, the soak of a server, the newest page."""
