"""All objects that one Step wants, in the order in which they are applied."""

from __future__ import annotations

from bema.contract.bindings import Binding
from bema.contract.steps import Step
from bema_operator import ownership
from bema_operator.manifests import config_maps, cronjobs, deployments, disruptions, network_policies, services
from bema_operator.manifests.parts import Manifest, Order
from bema_operator.settings import Settings


def children(binding: Binding, step: Step, settings: Settings, contents: str = "") -> list[Manifest]:
    """The stamped manifests of a Step that has code and that this version supports; what is for several pods only is
    among them, however many there are. `contents`: a digest of what the ConfigMaps hold on which it is restarted."""
    order = Order(step=step, binding=binding, settings=settings, contents=contents)
    wanted = [config_maps.config_map(order)]
    if settings.network_policies:
        wanted.append(network_policies.network_policy(order))
    if order.is_cron:
        wanted.append(cronjobs.cron_job(order))
    else:
        if step.spec.apis:
            wanted.append(services.service(order))
        wanted.append(disruptions.budget(order))
        wanted.append(deployments.deployment(order))
    return [ownership.stamp(manifest) for manifest in wanted]
