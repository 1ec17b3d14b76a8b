"""Hypothesis strategies for what users write. Values are plain, in camelCase, as in a manifest."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from bema.contract.triggers import FUNCTION

Strategy = st.SearchStrategy[Any]

texts = st.text(st.characters(codec="utf-8"), max_size=12)
"""Any text that UTF-8 can carry."""
topics = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
plain = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8)
opaque = st.dictionaries(plain, st.none() | st.booleans() | st.integers(0, 9) | plain | st.lists(plain), max_size=2)
seconds = st.integers(1, 1000) | st.floats(0.5, 1000, width=32)


def some(required: dict[str, Strategy], **optional: Strategy) -> Strategy:
    return st.fixed_dictionaries(required, optional=optional)


def unique(values: Strategy, *, most: int, least: int = 0) -> Strategy:
    return st.lists(values, unique=True, min_size=least, max_size=most)


def named(objects: Strategy, *, key: str = "name") -> Strategy:
    return st.lists(objects, unique_by=lambda item: item[key], max_size=2)


def apis() -> Strategy:
    return some(
        {"path": st.sampled_from(["/", "/orders", "/orders/{id}", "/orders/:id/lines/{line}", "/a~b/%20"])},
        method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]),
        body=opaque,
        query=opaque,
        responses=st.dictionaries(st.sampled_from(["200", "404"]), opaque),
        maxBodyBytes=st.integers(1, 10**9) | st.sampled_from(["1Mi", "512Ki", "2G", "65536"]),
        auth=opaque,
        condition=opaque,
    )


def events(names: list[str]) -> Strategy:
    return some(
        {"topics": st.just(names)},
        input=opaque,
        condition=opaque,
        ordering=st.just({}),
        batch=some({}, size=st.integers(1, 400), timeoutSeconds=seconds),
    )


def crons() -> Strategy:
    return some(
        {"schedule": st.sampled_from(["0 2 * * *", "*/5 0-6,22 1 JAN-mar mon,FRI", "@daily", "5/10 * * * 0"])},
        timeZone=st.sampled_from(["Europe/Paris", "Etc/UTC", "America/Argentina/Buenos_Aires", "Etc/GMT+3"]),
        overlap=st.sampled_from(["Skip", "Allow", "Replace"]),
        startingDeadlineSeconds=st.integers(10, 10_000),
        condition=st.just({"$comment": FUNCTION}),
    )


def states(group: str) -> Strategy:
    return some({"group": st.just(group)}, key=texts, condition=opaque)


def streams() -> Strategy:
    changes = unique(st.sampled_from(["Create", "Update", "Delete"]), least=1, most=3)
    return some({"stream": plain}, on=changes, condition=opaque)


@st.composite
def triggers(draw: st.DrawFn, *, least: int = 1) -> list[dict[str, Any]]:
    kinds = draw(st.lists(st.sampled_from(["api", "event", "cron", "state", "stream"]), min_size=least, max_size=3))
    heard = draw(unique(topics, least=2 * len(kinds), most=2 * len(kinds)))
    makers = {"api": apis, "cron": crons, "stream": streams}

    def maker(n: int, kind: str) -> Strategy:
        # No topic and no group is heard by two triggers
        own = heard[2 * n : 2 * n + 2]
        return events(own) if kind == "event" else states(own[0]) if kind == "state" else makers[kind]()

    drawn = [{kind: draw(maker(n, kind))} for n, kind in enumerate(kinds)]
    # A trigger with a batch is the only one of its Step
    gathered = [trigger for trigger in drawn if "batch" in trigger.get("event", {})]
    return gathered[:1] or drawn


def codes() -> Strategy:
    image = some(
        {"entrypoint": st.just("steps/a_step.py"), "image": plain}, language=st.sampled_from(["python", "node"])
    )
    inline = st.fixed_dictionaries(
        {"entrypoint": st.just("steps/a_step.py"), "inline": st.fixed_dictionaries({"steps/a_step.py": texts})}
    )
    return image | inline


def retries() -> Strategy:
    return some(
        {},
        maxAttempts=st.integers(1, 100),
        backoff=st.sampled_from(["Fixed", "Linear", "Exponential"]),
        initialSeconds=st.floats(0, 1, width=32),
        maxSeconds=st.integers(1, 86_400),
        jitter=st.floats(0, 1, width=32),
    )


def scalings() -> Strategy:
    return some(
        {},
        minReplicas=st.integers(0, 10),
        maxReplicas=st.integers(10, 1000),
        engine=st.sampled_from(["Native", "HPA", "KEDA"]),
        targetDrainSeconds=st.integers(1, 86_400),
        idleSeconds=st.integers(1, 86_400),
    )


def _env() -> Strategy:
    return some({"name": plain}, value=texts) | some({"name": plain}, valueFrom=opaque)


def _env_from() -> Strategy:
    return some({"configMapRef": opaque}, prefix=plain) | some({"secretRef": opaque})


def _mounts() -> Strategy:
    return st.lists(some({"name": plain, "mountPath": plain}, subPath=plain, readOnly=st.booleans()), max_size=2)


def _containers() -> Strategy:
    return named(
        some(
            {"name": plain, "image": plain},
            command=st.lists(texts, max_size=2),
            args=st.lists(texts, max_size=2),
            env=named(_env()),
            envFrom=st.lists(_env_from(), max_size=2),
            resources=opaque,
            volumeMounts=_mounts(),
        )
    )


@st.composite
def volumes(draw: st.DrawFn) -> dict[str, Any]:
    source = draw(st.sampled_from(["configMap", "secret", "emptyDir", "projected", "persistentVolumeClaim"]))
    return {"name": draw(plain), source: draw(opaque)}


def pods() -> Strategy:
    labels = st.dictionaries(plain, plain, max_size=2)
    objects = st.lists(opaque, max_size=2)
    return some(
        {},
        env=named(_env()),
        envFrom=st.lists(_env_from(), max_size=2),
        resources=opaque,
        nodeSelector=labels,
        tolerations=objects,
        affinity=opaque,
        topologySpreadConstraints=objects,
        volumes=named(volumes()),
        volumeMounts=_mounts(),
        initContainers=_containers(),
        sidecars=_containers(),
        imagePullSecrets=objects,
        serviceAccountName=plain,
        priorityClassName=plain,
        labels=labels,
        annotations=labels,
    )


def _common() -> dict[str, Strategy]:
    emit = some({"topic": topics}, schema=opaque, description=plain)
    return {
        "displayName": plain,
        "description": plain,
        "flows": st.lists(plain, max_size=2),
        "emits": st.lists(emit, unique_by=lambda item: item["topic"], max_size=2),
        "retry": retries(),
        "timeoutSeconds": seconds,
        "concurrency": st.integers(1, 1024),
        "maxInFlight": st.integers(400, 100_000),
        "isolation": st.sampled_from(["Thread", "Process"]),
        "scaling": scalings(),
        "replicas": st.integers(0, 1000),
        "deliverFrom": st.sampled_from(["Creation", "Beginning", "Now", "2026-01-31T12:00:00.5+01:00"]),
        "deletionPolicy": st.sampled_from(["Delete", "Drain"]),
        "suspend": st.booleans(),
        "capture": st.sampled_from(["Off", "Metadata", "Payload"]),
        "pod": pods(),
    }


def specs() -> Strategy:
    """Valid specs of Steps with code and of noops, each field there or not."""
    names = st.lists(topics, max_size=2)
    spec = some({"triggers": triggers(), "code": codes()}, **_common())
    triggered = st.builds(_fitting, spec, config_maps(), st.none() | plain)
    return triggered | some({}, virtualEmits=names, virtualSubscribes=names, **_common())


def config_maps() -> Strategy:
    return st.none() | unique(st.sampled_from(["a", "a.b", "shop-settings", "0"]), least=1, most=3)


def _fitting(spec: dict[str, Any], names: list[str] | None, former: str | None) -> dict[str, Any]:
    """With what some triggers go together with: a Step whose pods all end by themselves is not restarted, and one that
    hears nothing has no place to take over."""
    kinds = {kind for trigger in spec["triggers"] for kind in trigger}
    restart = {"restartOn": {"configMaps": names}} if names and kinds != {"cron"} else {}
    adopt = {"adoptFrom": former} if former and kinds & {"event", "state"} else {}
    return {**spec, **restart, **adopt}
