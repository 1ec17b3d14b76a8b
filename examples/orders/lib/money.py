"""Money in whole cents: sums stay exact."""


def price(cents: int) -> str:
    """Cents as people read them: 1250 is `12.50 €`."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02} €"
