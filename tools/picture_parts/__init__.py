"""What the pictures are made of: a server that runs the demo workflows, and the panels of each help page."""
