"""The demo: the orders example under load and under fire, and an audit that does not ask Bema whether it went well.

`python -m tools.demo dev` and `python -m tools.demo cluster` are the doors for people. Whatever judges the outcome
(`brokers`, `audits`, `providers`) imports nothing of Bema.
"""
