"""Kubernetes as Bema sees it: kinds by name, and one generic call. Only this package imports `kubernetes`."""
