"""The runtime: receive → decode → invoke → commit → settle. A run's effects are one atomic commit."""
