"""Every name that crosses a process, in one place: subjects, streams, durables, labels, environment variables, paths.

A name is a function of *all* of its inputs, so that two things never share one. User strings (topics, groups, keys,
ids) become subject tokens by an encoding that is reversible and collision-free; what the server could not take is
refused here, with `NameInvalid`. Nothing else in Bema builds a subject.

An *app id* names an app on a broker: the namespace, or `<installation>_<namespace>` where several clusters share one.
(`_` cannot occur in a namespace, so the two halves cannot be confused.) Everything of an app lies below its *root*,
`bema.<app id>`.
"""

from __future__ import annotations

import functools
import hashlib
import re
import zlib

from bema.contract import errors

API_GROUP = "bema.dev"
API_VERSION = "v1alpha1"
FIELD_MANAGER = "bema-operator"

MAX_STEP_NAME = 47
"""A CronJob's name may have 52 characters; Kubernetes appends `-<minutes>` to make the Job's, ours may append 5."""

DNS_LABEL = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
"""The pattern of a DNS label (RFC 1123), but for its length."""

MAX_TOKEN = 1024
"""Characters of one user string once encoded. Two of them and our own words stay below the 4,096 bytes of a line."""

RELEASE = "live"

LABEL_STEP = "bema.dev/step"
"""On everything that is made for a Step: the Step's name."""
LABEL_APP = "bema.dev/app"
"""On everything that is made for a Step: the app's name, which is the namespace."""
LABEL_CLIENTS = "bema.dev/clients"
"""On a namespace, "true": its pods may reach the Steps of all apps."""
LABEL_NAME = "app.kubernetes.io/name"
"""On everything that is made for a Step: the Step's name."""
LABEL_COMPONENT = "app.kubernetes.io/component"
"""On everything that is made for a Step: "step"."""
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
"""On everything that is made for a Step: "bema-operator"."""
LABEL_PART_OF = "app.kubernetes.io/part-of"
"""On everything that is made for a Step: the app's name."""
LABEL_JOB_NAME = "batch.kubernetes.io/job-name"
"""Read of a cron Step's pod, where Kubernetes writes it: its end is the time for which the Job was started."""
ANNOTATION_HASH = "bema.dev/hash"
"""On everything that is made for a Step: which manifest was applied last."""
ANNOTATION_ADOPT_STREAM = "bema.dev/adopt-stream"
"""On a namespace, by a person: the uid of the namespace before, whose stream this one takes over."""
ANNOTATION_DISCARD_BACKLOG = "bema.dev/discard-backlog"
"""On a Step, by a person: topics, separated by commas, whose waiting events it gives up."""
ANNOTATION_CONTENTS = "bema.dev/contents"
"""On a Step's pods: a digest of what the ConfigMaps hold on which the Step is restarted."""
LEASE = "bema-operator"
"""The Lease of the operator that acts."""
ANNOTATION_VERSION = "bema.dev/version"
"""On the CRD: the version of Bema that it is of."""
ANNOTATION_SCHEMA = "bema.dev/schema"
"""On the CRD: a digest of its schema, by which `bema` tells whether it is the one that it knows."""

ENV_JOB_NAME = "BEMA_JOB_NAME"
ENV_NATS_URL = "BEMA_NATS_URL"

METADATA_INSTALLATION = "bema.dev/installation"
"""Of an app's stream: the installation that it belongs to; empty where there is only one."""
METADATA_NAMESPACE = "bema.dev/namespace"
"""Of an app's stream: its namespace."""
METADATA_NAMESPACE_UID = "bema.dev/namespace-uid"
"""Of an app's stream: the uid of its namespace. A namespace that came later does not get it by itself."""
METADATA_STEP_UID = "bema.dev/step-uid"
"""Of a Step's consumer: the uid of the Step."""
METADATA_STEP = "bema.dev/step"
"""Of a Step's consumer: the Step's name."""

PATH_BINDING = "/etc/bema/binding.json"
PATH_APP = "/app"

PORT_HTTP = 8080
PORT_HEALTH = 8081
PORT_METRICS = 9090

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/:@")
_LABEL = re.compile(DNS_LABEL)
_EMPTY = "="
_REDRIVE = "~"
_ESCAPE = re.compile(r"=([0-9A-F]{2})")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


@functools.lru_cache(maxsize=8192)
def encode(text: str, *, what: str = "name") -> str:
    """Turn any user string into one subject token.

    Letters, digits and `_ - / : @` stay as they are; every other byte of the UTF-8 form becomes `=XX`. The empty
    string becomes a lone `=`. Raises `NameInvalid` for what UTF-8 cannot carry and for more than `MAX_TOKEN`
    characters of result; `what` says in the message what the string was.
    """
    if not isinstance(text, str):
        raise errors.NameInvalid(f"{what}: expected a text, found {text!r}")
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise errors.NameInvalid(f"{what} must be valid Unicode, found a lone surrogate in {text!r}") from error
    token = "".join(chr(byte) if byte in _PLAIN else f"={byte:02X}" for byte in raw) or _EMPTY
    if len(token) > MAX_TOKEN:
        raise errors.NameInvalid(
            f"{what} is too long: expected at most {MAX_TOKEN} characters once encoded for a subject "
            f"(a character outside A-Z a-z 0-9 _ - / : @ counts three for each of its bytes), "
            f"found {len(token)}: {text[:40]!r}…"
        )
    return token


def decode(token: str) -> str:
    """The user string that `encode` was given. Raises `NameInvalid` when no string encodes to `token`."""
    text = "" if token == _EMPTY else _unescape(token)
    if encode(text) != token:
        raise errors.NameInvalid(f"expected a token made by `encode`, found {token!r}")
    return text


def _unescape(token: str) -> str:
    raw = bytearray()
    position = 0
    while position < len(token):
        escape = _ESCAPE.match(token, position)
        if escape:
            raw.append(int(escape[1], 16))
            position = escape.end()
        else:
            raw += token[position].encode("utf-8", "surrogatepass")
            position += 1
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.NameInvalid(f"expected a token made by `encode`, found {token!r}") from error


@functools.lru_cache(maxsize=8192)
def encode_topic(topic: str) -> str:
    """Like `encode`, but dots between non-empty parts stay, so that `order.created` reads the same in a subject.

    A dot at either end or beside another dot is escaped; each topic still has exactly one form.
    """
    parts = re.split(r"(?<=[^.])\.(?=[^.])", topic)
    encoded = ".".join(encode(part, what="topic") for part in parts)
    if len(encoded) > MAX_TOKEN:
        raise errors.NameInvalid(
            f"topic is too long: expected at most {MAX_TOKEN} characters once encoded, found {len(encoded)}: "
            f"{topic[:40]!r}…"
        )
    return encoded


def decode_topic(encoded: str) -> str:
    """The topic that `encode_topic` was given. Raises `NameInvalid` when no topic encodes to it."""
    topic = ".".join("" if part == _EMPTY else _unescape(part) for part in encoded.split("."))
    if encode_topic(topic) != encoded:
        raise errors.NameInvalid(f"expected a topic made by `encode_topic`, found {encoded!r}")
    return topic


def label(text: str, *, limit: int = MAX_STEP_NAME) -> str:
    """A DNS label for a written name: `ChargePayment`, `charge_payment` and `charge-payment` give `charge-payment`.

    A name that loses something on the way that could make two names meet (other characters, length) gets a short
    hash of the written form, so that different names stay different.
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", text)
    plain = re.sub(r"[^a-z0-9]+", "-", spaced.lower()).strip("-")
    lossy = bool(re.search(r"[^A-Za-z0-9 _.-]", text)) or not plain or len(plain) > limit
    if not lossy:
        return plain
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{plain[: limit - 7].strip('-') or 'x'}-{digest}"


def is_label(text: str, *, limit: int = 63) -> bool:
    """Whether `text` is a DNS label (RFC 1123) of at most `limit` characters."""
    return len(text) <= limit and _LABEL.fullmatch(text) is not None


def app_id(namespace: str, installation: str = "") -> str:
    return f"{installation}_{namespace}" if installation else namespace


def stream(namespace: str, installation: str = "") -> str:
    return f"BEMA-{app_id(namespace, installation)}"


def root(namespace: str, installation: str = "") -> str:
    return f"bema.{app_id(namespace, installation)}"


def root_of_stream(stream: str) -> str:
    """The root of the app that a stream holds."""
    return f"bema.{stream.removeprefix('BEMA-')}"


def everything(root: str) -> str:
    return f"{root}.>"


def partition(key: str | None, partitions: int) -> int:
    """crc32 of the key modulo the app's partitions; 0 without a key."""
    return 0 if key is None else zlib.crc32(key.encode("utf-8", "surrogatepass")) % partitions


@functools.lru_cache(maxsize=8192)
def event(root: str, topic: str, partition: int = 0) -> str:
    return f"{root}.evt.{RELEASE}.{partition}.{encode_topic(topic)}"


def event_filter(root: str, topic: str, partition: int | None = None) -> str:
    """A topic's events: all of them, or those of one partition."""
    return f"{root}.evt.*.{'*' if partition is None else partition}.{encode_topic(topic)}"


def events(root: str) -> str:
    return f"{event_prefix(root)}>"


def event_prefix(root: str) -> str:
    """What the subjects of all events begin with, and no other."""
    return f"{root}.evt."


@functools.lru_cache(maxsize=8192)
def topic_of(root: str, subject: str) -> str:
    """The topic of an event's subject. Raises `NameInvalid` for any other subject."""
    prefix = event_prefix(root)
    parts = subject.removeprefix(prefix).split(".", 2)
    if not subject.startswith(prefix) or len(parts) != 3:
        raise errors.NameInvalid(f"expected an event's subject below {prefix}, found {subject!r}")
    return decode_topic(parts[2])


def retry(root: str, step: str, run: str) -> str:
    return f"{root}.retry.{step}.{run}"


def retry_filter(root: str, step: str) -> str:
    return f"{root}.retry.{step}.>"


def retries(root: str) -> str:
    return f"{retry_prefix(root)}>"


def retry_prefix(root: str) -> str:
    """What the subjects of all retries begin with, and no other."""
    return f"{root}.retry."


def retry_of(root: str, subject: str) -> tuple[str, str]:
    """Step and run of a retry's subject. Raises `NameInvalid` for any other subject."""
    prefix = retry_prefix(root)
    parts = subject.removeprefix(prefix).split(".")
    if not subject.startswith(prefix) or len(parts) != 2:
        raise errors.NameInvalid(f"expected a retry's subject below {prefix}, found {subject!r}")
    return parts[0], parts[1]


def timer(root: str, timer_id: str) -> str:
    return f"{root}.timer.{encode(timer_id, what='timer id')}"


def timers(root: str) -> str:
    return f"{root}.timer.>"


def retry_timer(root: str, step: str, run: str) -> str:
    return f"{root}.timer.retry.{step}.{run}"


def retry_timers(root: str, step: str) -> str:
    """Every retry of a Step that waits for its time."""
    return f"{root}.timer.retry.{step}.>"


def state(root: str, group: str, key: str) -> str:
    return f"{root}.state.{encode(group, what='group')}.{encode(key, what='key')}"


def state_filter(root: str, group: str | None = None) -> str:
    """One group of the state, or all of it."""
    return f"{root}.state.*.*" if group is None else f"{root}.state.{encode(group, what='group')}.*"


def state_of(root: str, subject: str) -> tuple[str, str]:
    """Group and key of a state subject. Raises `NameInvalid` for any other subject."""
    prefix = f"{root}.state."
    parts = subject.removeprefix(prefix).split(".")
    if not subject.startswith(prefix) or len(parts) != 2:
        raise errors.NameInvalid(f"expected a state subject below {prefix}, found {subject!r}")
    return decode(parts[0]), decode(parts[1])


def change(root: str, group: str, key: str, partitions: int) -> str:
    """A write to a watched group. All writes of a key are of one partition, so that they can be heard in order."""
    number = partition(f"{group}\x1f{key}", partitions)
    return f"{root}.chg.{number}.{encode(group, what='group')}.{encode(key, what='key')}"


def change_filter(root: str, group: str, key: str | None = None, partition: int | None = None) -> str:
    """The writes to a group, or to one of its keys."""
    number = "*" if partition is None else partition
    one = "*" if key is None else encode(key, what="key")
    return f"{root}.chg.{number}.{encode(group, what='group')}.{one}"


def change_prefix(root: str) -> str:
    """What the subjects of all changes begin with, and no other."""
    return f"{root}.chg."


def change_of(root: str, subject: str) -> tuple[str, str]:
    """Group and key of a change's subject. Raises `NameInvalid` for any other subject."""
    prefix = change_prefix(root)
    parts = subject.removeprefix(prefix).split(".")
    if not subject.startswith(prefix) or len(parts) != 3:
        raise errors.NameInvalid(f"expected a change's subject below {prefix}, found {subject!r}")
    return decode(parts[1]), decode(parts[2])


def changed_event(run: str, number: int) -> str:
    """The id of a run's `number`-th change to a watched group, counted from 1."""
    return f"{run}.c{number}"


def watch(root: str, step: str = "*") -> str:
    """Which groups a Step watches."""
    return meta(root, f"watch.{step}")


def adoption(root: str, step: str) -> str:
    """Whose place a Step has taken over."""
    return meta(root, f"adopted.{step}")


def adopter(root: str, former: str) -> str:
    """Which Step has taken over the place of another."""
    return meta(root, f"adopter.{former}")


def suspect(root: str, step: str, run: str) -> str:
    """Executions of a run that have not ended: one of them may have ended its process."""
    return meta(root, f"suspect.{step}.{run}")


def begun(root: str, step: str, trigger: int, tick: int | str) -> str:
    """A tick of one of a Step's cron triggers whose run has begun and has no end."""
    return meta(root, f"begun.{step}.{trigger}.{tick}")


def begun_filter(root: str, step: str, trigger: int) -> str:
    """All ticks of a cron trigger that have begun."""
    return begun(root, step, trigger, "*")


def begun_of(subject: str) -> int:
    """The tick of a subject that `begun` has made."""
    return int(subject.rpartition(".")[2])


def end(root: str, step: str, kind: str, run: str) -> str:
    return f"{root}.end.{step}.{kind}.{run}"


def end_filter(root: str, step: str) -> str:
    return f"{root}.end.{step}.>"


def ends_of_kind(root: str, step: str, kind: str) -> str:
    return f"{root}.end.{step}.{kind}.>"


def dedup(root: str, topic: str, event_id: str) -> str:
    return f"{root}.dedup.{encode_topic(topic)}.{encode(event_id, what='event id')}"


def dead_letter(root: str, step: str, run: str) -> str:
    return f"{root}.dlq.{step}.{run}"


def dead_letter_filter(root: str, step: str = "*") -> str:
    return f"{root}.dlq.{step}.>"


def dead_letter_of(root: str, subject: str) -> tuple[str, str]:
    """Step and run of a dead letter's subject."""
    step, run = subject.removeprefix(f"{root}.dlq.").split(".", 1)
    return step, run


def redrive(run: str, number: int) -> str:
    """The run that the `number`-th redrive starts, counted from 1: of a run, or of an earlier redrive of it."""
    return f"{original(run)}{_REDRIVE}{number}"


def original(run: str) -> str:
    """The run that an event started, of it or of any of its redrives."""
    return run.partition(_REDRIVE)[0]


def redrives_of(run: str) -> int:
    """How many redrives led to a run; 0 for one that an event started."""
    text = run.partition(_REDRIVE)[2]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def listing(token: str) -> str:
    """A consumer that lives for one page of a list. No Step has this name: theirs have no `_`."""
    return f"_list_{token}"


def meta(root: str, what: str) -> str:
    return f"{root}.meta.{what}"


def floor(root: str, durable: str) -> str:
    """Where the floor of a consumer is recorded."""
    return f"{root}.meta.floor.{durable}"


def floors(root: str) -> str:
    return f"{root}.meta.floor.>"


def quota(root: str) -> str:
    """Where the janitor says how full the app's storage is."""
    return meta(root, "quota")


def changes(root: str) -> str:
    """Every change of a watched group of state."""
    return f"{change_prefix(root)}>"


def ticks(root: str) -> str:
    """Every cron tick that is an event."""
    return f"{root}.tick.>"


def durable(step: str, partition: int | None = None) -> str:
    """The Step's consumer, or the one of a partition that it hears in order. Its stream belongs to one app, so the
    Step's name is enough; it has no `_`."""
    return step if partition is None else f"{step}_{partition}"


def step_of_durable(durable: str) -> str:
    """The Step of a consumer."""
    return durable.partition("_")[0]


def members(root: str, step: str) -> str:
    """Where the processes of a Step tell each other that they live. Not below the root, or the stream would keep it."""
    return f"bemacore.{root.removeprefix('bema.')}.members.{step}"


def _id(*parts: str) -> str:
    """128 bits of a hash over the parts, as 32 hex digits. Only the last part is a user's: the separator occurs in no
    other, so no two lists meet."""
    text = "\x1f".join(parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def run_of_event(step: str, source: str, event_id: str) -> str:
    """A run's id for an event: the same for every delivery and attempt, another for each Step. CloudEvents makes an
    event's id unique for its source only."""
    return _id("event", step, f"{len(source)}:{source}{event_id}")


def run_of_tick(step: str, nominal: int) -> str:
    """A cron run's id from its nominal time, in whole seconds since 1970."""
    return _id("cron", step, str(nominal))


def run_of_job(step: str, job: str) -> str:
    """The id of a cron run that somebody started by hand, from the Job's name."""
    return _id("job", step, job)


def foreign_event(stream_created: str, sequence: int, timestamp: str) -> str:
    """An id for a message that carries none. The stream's creation time keeps it unique after a reinstall."""
    return _id("foreign", stream_created, str(sequence), timestamp)


def emitted_event(run: str, number: int) -> str:
    """The id of a run's `number`-th emit, counted from 1."""
    return f"{run}.{number}"


def new_id(milliseconds: int, randomness: int) -> str:
    """A new ULID in lower case, from a time in ms since 1970 and 80 random bits: for batches, and for events and runs
    at the edge."""
    number = (milliseconds & ((1 << 48) - 1)) << 80 | (randomness & ((1 << 80) - 1))
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def workload(step: str) -> str:
    """The Deployment, CronJob and Service of a Step."""
    return step


def config_map(step: str, digest: str) -> str:
    return f"{step}-{digest[:10]}"


def code_key(path: str) -> str:
    """A ConfigMap key for a file's path: keys may hold letters, digits, `-`, `_` and `.` only, at most 253."""
    key = "".join(c if c.isascii() and (c.isalnum() or c in "-.") else f"_{ord(c):x}_" for c in path)
    key = f"_2e_{key[1:]}" if key.startswith(".") else key  # `..` may not begin a key
    return key if len(key) <= 253 else f"{_id(path)}.py"
