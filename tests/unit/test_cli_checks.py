"""What `bema check` says, word for word. One folder of bad files, loaded once by a real discovery process."""

import asyncio
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bema.discoveries import Discovery, Found, FoundApp, Problem
from bema_cli import checks, discovery, images, manifests
from bema_cli.application import app
from bema_cli.checks import Findings

EVENT = '"triggers": [{"event": {"topics": ["a"]}}]'
HANDLER = "\ndef handler(data, ctx): ...\n"


def config(text: str) -> str:
    return f"config = {{{text}}}{HANDLER}"


APP = "{{apiVersion: bema.dev/v1alpha1, kind: App, metadata: {{name: {name}}}, spec: {spec}}}"
IMAGE = "it needs an image of your own"

BAD: dict[str, tuple[str, list[str]]] = {
    "syntax_step.py": ("config = {\n", ["steps/syntax_step.py:1: syntax error: '{' was never closed"]),
    "raises_step.py": ("\n\n1 / 0\n", ["steps/raises_step.py:3: ZeroDivisionError: division by zero"]),
    "exits_step.py": ("import sys\nsys.exit(3)\n", ["steps/exits_step.py:2: SystemExit: 3"]),
    "broken_lib_step.py": (
        "import broken_lib\n",
        ["broken_lib.py:2: KeyError: 'x' (loading steps/broken_lib_step.py)"],
    ),
    "wrong_lib_step.py": ("import wrong_lib\n", ["wrong_lib.py:1: syntax error: invalid syntax"]),
    "missing_step.py": (
        "import no_such_package.api\n",
        [
            "steps/missing_step.py:1: ModuleNotFoundError: No module named 'no_such_package'; install it here; "
            f"the runtime image does not have it either: {IMAGE}"
        ],
    ),
    "no_config_step.py": (HANDLER, ["steps/no_config_step.py: expected a dict named `config`, found none"]),
    "no_handler_step.py": (
        f"config = {{{EVENT}}}",
        ["steps/no_handler_step.py: expected a function named `handler` for its triggers, found none"],
    ),
    "no_triggers_step.py": (
        config(""),
        ["steps/no_triggers_step.py: expected triggers for its handler, found none in `config`"],
    ),
    "unknown_step.py": (
        config(f'{EVENT}, "emitz": []'),
        ["steps/unknown_step.py: unknown key 'emitz'; did you mean 'emits'?"],
    ),
    "deep_unknown_step.py": (
        config('"triggers": [{"event": {"topic": ["a"], "topics": ["a"]}}]'),
        ["steps/deep_unknown_step.py: unknown key 'triggers[0].event.topic'; did you mean 'topics'?"],
    ),
    "cron_step.py": (
        config('"triggers": [{"cron": {"schedule": "61 * * * *"}}]'),
        ["steps/cron_step.py: triggers[0].cron.schedule: minute: expected 0 to 59, found '61'"],
    ),
    "later_step.py": (
        config('"triggers": [{"api": {"path": "/later", "auth": {}}}], "capture": "Off"'),
        [
            "steps/later_step.py: capture is not supported by this version",
            "steps/later_step.py: triggers[0].api.auth is not supported by this version",
        ],
    ),
    "schema_step.py": (
        config('"triggers": [{"event": {"topics": ["a"], "input": {"type": "objct"}}}]'),
        [
            "steps/schema_step.py: triggers[0].event.input: expected a JSON Schema (draft 2020-12), found one that is "
            "invalid: at /type: \"objct\" is not valid under any of the schemas listed in the 'anyOf' keyword"
        ],
    ),
    "condition_step.py": (
        config('"triggers": [{"event": {"topics": ["a"], "condition": {"type": "objct"}}}]'),
        [
            "steps/condition_step.py: triggers[0].event.condition: expected a JSON Schema (draft 2020-12), found one "
            "that is invalid: at /type: \"objct\" is not valid under any of the schemas listed in the 'anyOf' keyword"
        ],
    ),
    "emit_schema_step.py": (
        config(f'{EVENT}, "emits": [{{"topic": "b", "schema": {{"required": 3}}}}]'),
        [
            "steps/emit_schema_step.py: emits[0].schema: expected a JSON Schema (draft 2020-12), found one that is "
            'invalid: at /required: 3 is not of type "array"'
        ],
    ),
    "unnameable_step.py": (
        f"class Odd: ...\nconfig = {{{EVENT}}}\ndef handler(data: Odd, ctx): ...\n",
        [
            "steps/unnameable_step.py: the handler's input: expected a type that has a JSON Schema, found Odd; "
            "use a pydantic model, a dataclass or a TypedDict (before Python 3.12 the one of typing_extensions)"
        ],
    ),
    "route_one_step.py": (
        config('"triggers": [{"api": {"path": "/orders/{id}"}}]'),
        [
            "steps/route_one_step.py: GET /orders/{id}: expected one Step to answer it, found "
            "'route-one' (steps/route_one_step.py) and 'route-two' (steps/route_two_step.py)"
        ],
    ),
    "route_two_step.py": (
        config('"triggers": [{"api": {"path": "/orders/:other"}}]'),
        [
            "steps/route_two_step.py: GET /orders/{other}: expected one Step to answer it, found "
            "'route-one' (steps/route_one_step.py) and 'route-two' (steps/route_two_step.py)"
        ],
    ),
    "twice_step.py": (
        config(EVENT),
        [
            "steps/twice_step.py: expected one Step named 'twice', found steps/twice.step.yaml and "
            "steps/twice_step.py; rename one"
        ],
    ),
    "twice.step.yaml": (
        "apiVersion: bema.dev/v1alpha1\nkind: Step\nmetadata: {name: twice}\nspec: {}\n",
        [
            "steps/twice.step.yaml: expected one Step named 'twice', found steps/twice.step.yaml and "
            "steps/twice_step.py; rename one"
        ],
    ),
    "kind.step.yaml": (
        "apiVersion: bema.dev/v1alpha1\nkind: Stop\n",
        ["steps/kind.step.yaml: kind: expected 'Step', found 'Stop'"],
    ),
    "yaml.step.yaml": (
        "apiVersion: bema.dev/v1alpha1\nkind: [\n",
        ["steps/yaml.step.yaml:3: invalid YAML: expected the node content, but found '<stream end>'"],
    ),
    "typo.step.yaml": (
        "apiVersion: bema.dev/v1alpha1\nkind: Step\nmetadata: {name: typo}\nspec: {virtualEmit: [a]}\n",
        ["steps/typo.step.yaml: unknown key 'virtualEmit'; did you mean 'virtualEmits'?"],
    ),
    "name.step.yaml": (
        "apiVersion: bema.dev/v1alpha1\nkind: Step\nmetadata: {name: Not_A_Label}\nspec: {}\n",
        [
            "steps/name.step.yaml: name: expected a DNS label of at most 47 characters such as "
            "charge-payment, found 'Not_A_Label'"
        ],
    ),
    "imports_step.py": (
        "def later():\n    import no_such_package\n" + config(EVENT),
        [
            f"steps/imports_step.py:2: imports 'no_such_package', which the runtime image does not have; {IMAGE}",
        ],
    ),
    "large_step.py": (
        config(EVENT) + "#" * 98_304,
        [
            "steps/large_step.py: expected at most 98,304 bytes of inline code, found 98,386 in "
            f"steps/large_step.py; {IMAGE}"
        ],
    ),
    "computed_step.py": (
        "import importlib\nimportlib.import_module('computed_' + 'lib')\n" + config(EVENT),
        [
            "steps/computed_step.py: imports computed_lib.py by a computed name, so that inline code would lack it; "
            f"{IMAGE}"
        ],
    ),
    "typed.step.ts": ("", ["steps/typed.step.ts: a Step in TypeScript is not supported by this version"]),
    "chat_stream.py": ("", ["steps/chat_stream.py: a Stream is not supported by this version"]),
    "../app.yml": ("", ["app.yml: expected the App in app.yaml, found it here; rename the file"]),
    "../app.yaml": (
        APP.format(name="app", spec="{defaults: {pod: {serviceAccountName: a}}}"),
        ["app.yaml: defaults.pod.serviceAccountName is not supported by this version"],
    ),
    "../broken_lib.py": ("\n{}['x']\n", []),
    "../wrong_lib.py": ("def def", []),
    "../computed_lib.py": ("", []),
    "good_step.py": ('print("to the wrong pipe")\n' + config('"triggers": [{"api": {"path": "/good"}}]'), []),
}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    folder = tmp_path_factory.mktemp("bad")
    for name, (text, _) in BAD.items():
        path = folder / "steps" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    found = checks.examine(asyncio.run(discovery.discover(folder, os.environ)))
    available = images.modules()
    return found.with_problems(checks.carried(found.steps, available)).with_hints(available)


@pytest.mark.parametrize("file", [name for name, (_, lines) in BAD.items() if lines])
def test_a_problem_is_named_with_its_file(findings: Findings, file: str) -> None:
    lines = BAD[file][1]
    about = {line.split(": ")[0].split(":")[0] for line in lines} | {f"steps/{file}"}
    said = [
        str(problem) for problem in findings.problems if problem.file in about or problem.step_file == f"steps/{file}"
    ]
    assert said == lines


def test_nothing_else_is_named_and_the_good_step_is_left(findings: Findings) -> None:
    expected = {line for _, lines in BAD.values() for line in lines}
    assert {str(problem) for problem in findings.problems} == expected
    assert [found.name for found in findings.steps] == ["good"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param(
            APP.format(name="shop", spec="{}"), ["metadata.name: expected 'app', found 'shop'"], id="another name"
        ),
        pytest.param(
            APP.format(name="app", spec="{}").replace("kind: App", "kind: Step"),
            ["kind: expected 'App', found 'Step'"],
            id="another kind",
        ),
        pytest.param(
            APP.format(name="app", spec="{eventRetention: 1y, storage: 5MB, replicas: 2}"),
            [
                "eventRetention: expected a time of at most 3650d such as 90s, 15m, 24h, 30d or 4w, found '1y'",
                "replicas: input should be 1, 3 or 5, found 2",
                "storage: expected a number of bytes such as 65536, 512Ki or 1Mi, found '5MB'",
            ],
            id="amounts that are none",
        ),
        pytest.param(
            APP.format(name="app", spec="{retention: 1d, defaults: {retry: {attempts: 3}}}"),
            [
                "unknown key 'defaults.retry.attempts'; did you mean 'maxAttempts'?",
                "unknown key 'retention'; did you mean 'eventRetention'?",
            ],
            id="unknown keys",
        ),
        pytest.param(
            APP.format(name="app", spec="{}").replace("kind: App", "kind: App, status: {}"),
            ["unknown key 'status'; valid keys are apiVersion, kind, metadata, spec"],
            id="a key that is none of an object's",
        ),
        pytest.param("", ["expected one object of kind App, found 0 documents"], id="nothing"),
        pytest.param("{", [":1: invalid YAML: expected the node content, but found '<stream end>'"], id="no YAML"),
    ],
)
def test_what_is_wrong_with_an_app_is_said(tmp_path: Path, text: str, lines: list[str]) -> None:
    (tmp_path / "app.yaml").write_text(text)
    app, problems = manifests.read_app(tmp_path)
    assert app is None
    assert sorted(str(problem).removeprefix("app.yaml").removeprefix(": ") for problem in problems) == lines
    assert checks.examine(Discovery(problems=problems)).is_app_amiss


def test_an_exponent_is_a_number_as_it_is_to_the_api_server(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(APP.format(name="app", spec="{storage: 1e9}"))
    app, problems = manifests.read_app(tmp_path)
    assert (app and app.spec, problems) == ({"storage": 10**9}, [])
    (tmp_path / "app.yaml").write_text(APP.format(name="app", spec="{storage: '1e9'}"))
    _, [problem] = manifests.read_app(tmp_path)
    assert problem.message == "storage: expected a number of bytes such as 65536, 512Ki or 1Mi, found '1e9'"


def step(name: str, **spec: Any) -> Found:
    return Found(file=f"steps/{name}_step.py", name=name, spec=spec, entrypoint=f"steps/{name}_step.py")


def hears(*topics: str) -> list[dict[str, Any]]:
    return [{"event": {"topics": list(topics)}}]


def test_a_step_takes_over_the_place_of_none_that_is_there() -> None:
    found = checks.examine(
        Discovery(steps=[step("new", triggers=hears("a"), adoptFrom="old"), step("old", triggers=hears("a"))])
    )
    assert [str(problem) for problem in found.problems] == [
        "steps/new_step.py: adoptFrom: expected that the Step 'old' is gone, found it in steps/old_step.py"
    ]
    assert [good.name for good in found.steps] == ["old"]


def test_volumes_that_are_mounted_are_of_the_step_or_its_app() -> None:
    mounts = [{"name": "v", "mountPath": "/v"}, {"name": "bema-tmp", "mountPath": "/work"}]
    pod = {"sidecars": [{"name": "proxy", "image": "p", "volumeMounts": mounts}]}
    silent, said = step("silent", triggers=hears("a")), step("said", triggers=hears("a"), pod=pod)
    noop = Found(file="n", name="noop", spec={"virtualEmits": ["a"]})

    def problems(*amiss: Problem, **app_pod: Any) -> list[str]:
        app = FoundApp(spec={"defaults": {"pod": app_pod}})
        found = checks.examine(Discovery(steps=[silent, said, noop], app=app, problems=list(amiss)))
        return [str(problem) for problem in found.problems]

    text = "expected a volume of the Step or of its App's defaults, found"
    sidecar = f"steps/said_step.py: pod.sidecars 'proxy': volumeMounts: {text} 'v' at /v; there is"
    assert problems() == [f"{sidecar} none"]
    assert problems(volumes=[{"name": "v", "emptyDir": {}}], volumeMounts=mounts) == []
    assert problems(volumes=[{"name": "w", "emptyDir": {}}], volumeMounts=[{"name": "nope", "mountPath": "/x"}]) == [
        f"{sidecar} w",
        f"steps/said_step.py: pod.volumeMounts: {text} 'nope' at /x; there is w",
        f"steps/silent_step.py: pod.volumeMounts: {text} 'nope' at /x; there is w",
    ]
    unread = Problem(file="app.yaml", message="oops")
    assert problems(unread) == ["app.yaml: oops"], "nobody knows what the App has"


def test_one_step_takes_over_a_place() -> None:
    same = [step(name, triggers=hears("a"), adoptFrom="old") for name in ("one", "two")]
    found = checks.examine(Discovery(steps=[*same, step("three", triggers=hears("a"), adoptFrom="older")]))
    who = "found 'one' (steps/one_step.py) and 'two' (steps/two_step.py)"
    assert [str(problem) for problem in found.problems] == [
        f"steps/{name}_step.py: adoptFrom: expected one Step to take over the place of 'old', {who}"
        for name in ("one", "two")
    ]
    assert [good.name for good in found.steps] == ["three"]


def test_topics_without_an_end_are_warnings() -> None:
    found = checks.examine(
        Discovery(
            steps=[
                step("one", triggers=hears("in", "shared"), emits=[{"topic": "out"}, {"topic": "person"}]),
                step("two", triggers=hears("shared"), emits=[{"topic": "both"}]),
                step("three", triggers=hears("both")),
                Found(file="n", name="noop", spec={"virtualEmits": ["in"], "virtualSubscribes": ["person"]}),
            ]
        )
    )
    assert found.problems == []
    assert found.warnings == [
        "topic 'shared' is heard by one and two, and no Step emits it",
        "topic 'out' is emitted by one, and no Step hears it",
    ]


def test_one_step_with_the_same_route_twice_is_a_problem() -> None:
    api = {"api": {"path": "/a"}}
    found = checks.examine(Discovery(steps=[step("one", triggers=[api, api])]))
    assert {str(problem) for problem in found.problems} == {
        "steps/one_step.py: GET /a: expected one Step to answer it, found 'one' (steps/one_step.py) and "
        "'one' (steps/one_step.py)"
    }


def test_the_runtime_image_has_the_runtime_and_what_it_requires() -> None:
    assert {"bema", "bema_runtime", "pydantic", "nats", "orjson", "uvicorn", "starlette"} <= images.modules()
    assert (
        not {"typer", "rich", "bema_operator", "kubernetes", "aiohttp", "pytest", "watchfiles", "yaml"}
        & images.modules()
    )


def test_a_check_loads_nothing_that_speaks_to_clusters(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from bema_cli.application import app\n"
        "try: app(['check', sys.argv[1]])\n"
        "finally: print(sorted({'aiohttp', 'kubernetes', 'bema.clusters.calls', 'yaml'} & sys.modules.keys()))\n"
    )
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/good_step.py").write_text(config('"triggers": [{"api": {"path": "/good"}}]'))
    done = subprocess.run([sys.executable, "-c", program, tmp_path], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "['yaml']"), done.stderr


def test_problems_that_an_image_solves_come_with_its_dockerfile(findings: Findings) -> None:
    alone = [problem for problem in findings.problems if problem.step_file == "steps/imports_step.py"]
    good = step("good").model_copy(update={"files": {"lib/a.py": "", "steps/good_step.py": "", "plain.py": ""}})
    version = metadata.version("bema-runtime")
    assert Findings([good], alone, [], []).advice() == (
        "An image of your own, by a Dockerfile such as\n"
        f"    FROM bema-runtime:{version}\n"
        "    USER root\n"
        "    RUN python3 -m venv /tmp/pip && /tmp/pip/bin/pip --python /opt/bema/bin/python install no_such_package"
        " && rm -rf /tmp/pip\n"
        "    USER 10001:10001\n"
        "    COPY lib /app/lib\n"
        "    COPY plain.py /app/plain.py\n"
        "    COPY steps /app/steps\n"
        "and then\n"
        "    docker build -t IMAGE . && docker push IMAGE\n"
        "    bema check --image IMAGE && bema render . --image IMAGE | kubectl apply -f -"
    )
    assert Findings([good], [], [], []).advice() is None
    refused = step("big").model_copy(update={"files": {"data/big.py": ""}})
    advice = Findings([good], alone, [], [], [refused]).advice()
    assert advice is not None
    assert "    COPY data /app/data\n" in advice


def test_a_file_that_ends_the_process_is_named(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/a_step.py").write_text("import os, sys\nprint('last words', file=sys.stderr)\nos._exit(9)\n")
    found = asyncio.run(discovery.discover(tmp_path, os.environ))
    assert [str(problem) for problem in found.problems] == [
        "steps/a_step.py: expected its modules to load, found the process ended by them (exit code 9): last words"
    ]


def test_a_file_that_does_not_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/a_step.py").write_text("import threading\nthreading.Event().wait()\n")
    found = asyncio.run(discovery.discover(tmp_path, os.environ, seconds=3))
    assert [str(problem) for problem in found.problems] == [
        "steps/a_step.py: expected its modules to load within 3 s, found them still running"
    ]


GOOD = {
    "steps/order_step.py": "from bema import api\n"
    "config = {'triggers': [api('POST', '/orders')], 'emits': ['order']}\n"
    "def handler(request, ctx): ...\n",
    "steps/bill_step.py": 'config = {"triggers": [{"event": {"topics": ["order"]}}], "emits": ["billed"]}\n'
    "import os\nos.environ['FROM_DOTENV']\ndef handler(order, ctx): ...\n",
    ".env": "FROM_DOTENV=yes\n",
}


def test_check_tells_people(tmp_path: Path) -> None:
    for name, text in GOOD.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    result = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert result.stdout == (
        "! topic 'billed' is emitted by bill, and no Step hears it\n"
        "· open to whoever reaches it: POST /orders (order)\n"
        "✓ 2 good Steps, 0 problems, 1 warning\n"
    )
    assert result.exit_code == 0


def test_check_tells_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {**GOOD, "steps/bad_step.py": "("}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["check", "--json"])
    assert json.loads(result.stdout) == {
        "ok": False,
        "steps": [
            {"name": "bill", "file": "steps/bill_step.py", "kinds": ["event"]},
            {"name": "order", "file": "steps/order_step.py", "kinds": ["api"]},
        ],
        "problems": [{"file": "steps/bad_step.py", "line": 1, "message": "syntax error: '(' was never closed"}],
        "advice": None,
        "warnings": [],
        "open": [{"method": "POST", "path": "/orders", "step": "order"}],
    }
    assert result.exit_code == 1


def test_a_folder_without_steps_is_a_problem(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert result.stdout == (
        "✗ .: expected Steps in files such as steps/charge_payment_step.py or src/charge_payment_step.py, found none\n"
        "✗ 0 good Steps, 1 problem, 0 warnings\n"
    )
    assert result.exit_code == 1


def test_a_folder_that_is_not_there_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, ["check", "/nowhere/at/all"])
    assert result.exit_code == 2
