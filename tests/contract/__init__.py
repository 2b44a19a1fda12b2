"""One suite for each port, on its fake and on the real thing."""
