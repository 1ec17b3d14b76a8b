"""From a Step and its Binding to the Kubernetes objects that run it. Pure: no cluster, no clock, no I/O.

pods          the pod: containers, mounts, probes, security
config_maps   the Binding and the inline code
deployments   a Step with api or event triggers
cronjobs      a Step with a cron trigger
services      an address for a Step with api triggers
network_policies  who may reach a Step's pods
disruptions   how many of its pods a drained node takes at a time
children      all objects that one Step wants
parts         labels, owner references, leaving out what is absent
"""
