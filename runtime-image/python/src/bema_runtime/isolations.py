"""Where handlers are executed: in this process, or each Step's in a worker process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bema.contract.bindings import Binding
from bema.contract.frames import Cancel, Invoke, Peer
from bema.contract.steps import Isolation
from bema_runtime.invokers import PythonInvoker
from bema_runtime.process_invokers import ProcessInvoker


class Invokers:
    """`frames.Invoker` for all Steps of a runtime: each has its handler executed where its Binding says."""

    def __init__(self, bindings: Sequence[Binding]) -> None:
        threads = [binding for binding in bindings if binding.code.isolation is Isolation.THREAD]
        self._processes = {
            binding.step: ProcessInvoker(binding) for binding in bindings if binding.code.isolation is Isolation.PROCESS
        }
        self._threads = PythonInvoker(threads) if threads else None

    @property
    def problems(self) -> list[str]:
        """Why handlers cannot be executed now, where they cannot."""
        return [invoker.problem for invoker in self._processes.values() if invoker.problem is not None]

    async def start(self, peer: Peer) -> None:
        """Raises `StepInvalid`, and leaves no process behind."""
        starts = [invoker.start(peer) for invoker in self._processes.values()]
        if self._threads is not None:
            starts.append(self._threads.start(peer))
        is_ready = False
        try:
            for result in await asyncio.gather(*starts, return_exceptions=True):
                if result is not None:
                    raise result
            is_ready = True
        finally:
            if not is_ready:
                for invoker in self._processes.values():
                    invoker.close()

    def invoke(self, invocations: Sequence[Invoke]) -> None:
        if not self._processes and self._threads is not None:
            self._threads.invoke(invocations)
            return
        for step, invoker in self._processes.items():
            own = [invoke for invoke in invocations if invoke.step == step]
            if own:
                invoker.invoke(own)
        elsewhere = [invoke for invoke in invocations if invoke.step not in self._processes]
        if elsewhere and self._threads is not None:
            self._threads.invoke(elsewhere)

    def cancel(self, cancel: Cancel) -> None:
        """Whoever does not know the execution has nothing to do with it."""
        for invoker in self._processes.values():
            invoker.cancel(cancel)
        if self._threads is not None:
            self._threads.cancel(cancel)

    def close(self) -> None:
        for invoker in self._processes.values():
            invoker.close()
        if self._threads is not None:
            self._threads.close()
