"""A real Kubernetes for tests, on this machine, in seconds and without Docker.

`clusters` is the door for tests and other tools; `python -m tools.cluster` is the door for people.
Nothing here reads the user's kubeconfig: every cluster has a folder of its own, and a kubeconfig in it.
"""
