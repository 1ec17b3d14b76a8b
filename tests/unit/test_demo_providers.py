"""The payment provider: what it refuses, what it charges, and that a key is charged once."""

from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tools.demo import providers
from tools.demo.providers import Fate, Ledger


def _order(fate: Fate) -> str:
    return next(name for number in range(1000) if providers.fate(name := f"o-{number:05}") is fate)


@pytest.fixture
def provider() -> Iterator[providers.Provider]:
    with providers.running() as provider:
        yield provider


def _charge(provider: providers.Provider, order_id: str, key: str = "run-1") -> httpx.Response:
    with httpx.Client(base_url=provider.url, trust_env=False) as client:
        return client.post("/charges", json={"order_id": order_id, "cents": 990}, headers={"Idempotency-Key": key})


def test_one_order_in_ten_fails_on_the_first_try_and_a_few_for_good() -> None:
    fates = Counter(providers.fate(f"o-{number:05}") for number in range(1, 1001))
    assert 70 <= fates[Fate.BUSY_FIRST] + fates[Fate.SILENT_FIRST] <= 130
    assert fates[Fate.SILENT_FIRST] >= 10
    assert 5 <= fates[Fate.DECLINED] <= 40


def test_a_charge_is_made_once_however_often_its_key_comes(provider: providers.Provider) -> None:
    order_id = _order(Fate.CHARGED)
    first, second = _charge(provider, order_id), _charge(provider, order_id)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json() == {"payment_id": "p-00001", "order_id": order_id, "cents": 990}
    assert len(provider.ledger.charges()) == 1
    assert provider.ledger.repeats() == 1


def test_another_key_is_another_charge_for_the_audit_to_find(provider: providers.Provider) -> None:
    order_id = _order(Fate.CHARGED)
    _charge(provider, order_id, "run-1")
    _charge(provider, order_id, "run-2")
    assert [charge.order_id for charge in provider.ledger.charges()] == [order_id, order_id]


def test_a_busy_provider_charges_on_the_second_try(provider: providers.Provider) -> None:
    order_id = _order(Fate.BUSY_FIRST)
    assert _charge(provider, order_id).status_code == 503
    assert provider.ledger.charges() == []
    assert _charge(provider, order_id).status_code == 201


def test_a_silent_provider_has_charged_although_it_did_not_answer(provider: providers.Provider) -> None:
    order_id = _order(Fate.SILENT_FIRST)
    with pytest.raises(httpx.RemoteProtocolError):
        _charge(provider, order_id)
    assert len(provider.ledger.charges()) == 1
    assert _charge(provider, order_id).status_code == 200
    assert len(provider.ledger.charges()) == 1


def test_a_declined_card_stays_declined_and_costs_nothing(provider: providers.Provider) -> None:
    order_id = _order(Fate.DECLINED)
    answers = [_charge(provider, order_id) for _ in range(3)]
    assert [(answer.status_code, answer.json()) for answer in answers] == [(402, {"reason": "card declined"})] * 3
    assert provider.ledger.charges() == []


def test_a_request_without_a_key_is_refused(provider: providers.Provider) -> None:
    with httpx.Client(base_url=provider.url, trust_env=False) as client:
        assert client.post("/charges", json={"order_id": "o-1", "cents": 1}).status_code == 400
        assert client.post("/charges", content=b"{", headers={"Idempotency-Key": "k"}).status_code == 400
    assert provider.ledger.charges() == []


def test_a_ledger_numbers_its_payments() -> None:
    ledger = Ledger()
    names = [name for number in range(100) if providers.fate(name := f"o-{number:05}") is Fate.CHARGED][:3]
    assert [ledger.charge(name, name, 1)[1]["payment_id"] for name in names] == ["p-00001", "p-00002", "p-00003"]
