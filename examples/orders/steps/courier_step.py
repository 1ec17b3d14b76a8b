"""The courier: a person with a bicycle. Runs nowhere; stands in the picture for what happens after payment."""

config = {
    "description": "Takes paid orders to the customers",
    "flows": ["orders"],
    "virtualSubscribes": ["order.paid"],
}
