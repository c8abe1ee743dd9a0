"""No password gets into a run or onto the terminal: what a job must not hold, and runs of earlier versions that do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.commands.compare.file import load_plan
from orchestrator.commands.fork.command import fork
from orchestrator.commands.rescore import rescore
from orchestrator.commands.verify.command import verify
from orchestrator.config.addresses import secret_in, without_password, without_secrets
from orchestrator.config.load import load_job
from orchestrator.driver.resume import load, needing_trust, resumed
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.report import report_text
from orchestrator.reports.status import status
from orchestrator.sources.registry import SOURCES
from orchestrator.tracking.tracker import open_command
from tests.orchestrator.test_cli import ratchet
from tests.support.sample_run import SampleRun
from tests.support.stand_ins import StandIns, make_project, run_job

SECRET = "hunter2"
HELD = [
    f"http://me:{SECRET}@host:5000/x",
    f"https://{SECRET}@host",
    f"HTTPS://me:pa/{SECRET}@host",
    f"postgresql://me:{SECRET}@host/mlflow",
    f"postgresql+psycopg2://me:{SECRET}/%40 {SECRET}@host/mlflow",
    f"mysql+pymysql://host/mlflow?user=me&passwd={SECRET}",
    f"postgresql://me@host/mlflow?sslpassword={SECRET}",
    f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{SECRET}",
    f"https://host/?api_key={SECRET}",
    f"https://host/x?y=1&token={SECRET}#z",
    f"https://host/x#access_token={SECRET}",
]
FREE = [
    "http://host:5000/x@y",
    "postgresql://me@host:5432/mlflow",
    "postgresql://host/mlflow?sslkey=/keys/one&passfile=/keys/two&service=mine",
    "sqlite:////runs/a@b:c@d/mlflow.db",
    "sqlite:////runs/a%3Ftoken=x/mlflow.db",
    "databricks://profile",
    "runs/me:x@y",
]


@pytest.mark.parametrize("address", HELD)
def test_an_address_with_a_password_is_known_and_never_shown(address: str) -> None:
    assert secret_in(address) and SECRET not in str(secret_in(address))
    assert SECRET not in without_password(f"cannot reach {address}") and SECRET not in open_command(address)


UNENDING = """
from orchestrator.config import addresses
parts = ["x", "x:", "x:y", "a.", "?", "x@", "x://a", "x://a:", "x://?", "\u00e9", "_token: ", "@"]
parts += ["http://a:", "http://a:b"]
for text in [part * 100_000 for part in parts] + [f"@{part * 100_000}" for part in parts]:
    addresses.without_secrets(text)
    addresses.secret_in(text)
    for key in (("cluster", "env", "A"), ("tracking", "uri"), ("generate", "engine", "x")):
        addresses.refusal(key, text)
print("done")
"""


def test_no_text_of_a_stranger_is_looked_at_without_end() -> None:
    """Before, each of these took hours, and with it `status` of a run whose record held one."""
    done = subprocess.run([sys.executable, "-c", UNENDING], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "done\n"


@pytest.mark.parametrize("address", FREE)
def test_an_address_without_one_is_let_be(address: str) -> None:
    assert secret_in(address) is None
    if not address.startswith("postgresql"):  # a user's name is hidden, and no harm to have
        assert without_password(address) == address


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(make_project(folder).read_text())
    return found


@pytest.mark.parametrize("address", HELD)
def test_a_job_file_with_a_password_is_refused_at_its_place(tmp_path: Path, address: str) -> None:
    path = make_project(tmp_path)
    path.write_text(path.read_text().partition("tracking:")[0] + f"tracking:\n  uri: {json.dumps(address)}\nrouns: 3\n")
    line = path.read_text().splitlines().index("tracking:") + 2
    with pytest.raises(BadInput) as refused:
        load_job(path)
    first, second = str(refused.value).splitlines()
    assert first.startswith(f"{path}:{line}:3: tracking.uri: this address holds ")
    assert "rouns: unknown key" in second, "every error is told at once"
    assert ("MLFLOW_TRACKING_TOKEN" if address.lower().startswith("http") else "~/.pgpass") in first
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tracking.uri", HELD[0]),
        ("tracking", f"{{uri: '{HELD[3]}'}}"),
        ("tracking", HELD[3]),  # no section
        ("tracking.url", HELD[3]),  # no key
        ("cluster.address", f"ray://me:{SECRET}@host:10001"),
        ("data.train", f"https://me:{SECRET}@host/train.jsonl"),
        ("judge", f"{{model: m, base_url: 'http://host/v1?api_key={SECRET}'}}"),
        ("judge", f"{{model: m, base_url: 'http://me:{SECRET}@host/v1'}}"),
        ("generate.engine", f"{{hf_token: {SECRET}}}"),
        ("generate.engine.hf_token", SECRET),
        ("generate.engine", f"{{kv_transfer_config: {{access_key: {SECRET}}}}}"),
        ("generate.engine", f"{{kv_transfer_config: {{store: 'redis://:{SECRET}@host'}}}}"),
    ],
)
def test_overrides_and_other_settings_with_a_secret_are_refused_unseen(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_job(make_project(tmp_path), [f"{key}={value}"])
    assert "override " in str(refused.value) and f"{key}=" in str(refused.value) and SECRET not in str(refused.value)


ISSUED = [
    f"sk-proj-{SECRET}0123456789abcdef",
    f"hf_{SECRET}0123456789abcdefghijKLMNO",
    f"ghp_{SECRET}0123456789abcdefghijKLMNO",
    "AKIA" + SECRET.upper() + "012345678",
    f"eyJhbGciOi{SECRET}.eyJzdWIiOiIx{SECRET}.abc_{SECRET}",
    f"-----BEGIN OPENSSH PRIVATE KEY-----{SECRET}",
]
"""Keys by the forms that their issuers give them."""


@pytest.mark.parametrize("secret", [ISSUED[0], ISSUED[-1], SECRET])
@pytest.mark.parametrize(
    "override",
    [
        "judge={{model: m, api_key_env: '{}!'}}",
        "judge={{model: m, api_key: '{}'}}",
        "judge.api_key={}",
        "cluster.secrets={{HF_TOKEN: '{}'}}",
        "cluster.secrets=['HF_TOKEN={}']",
        "cluster.env={{HF_TOKEN: '{}'}}",
        "cluster.env={{PGPASSWORD: '{}'}}",
        "cluster.env={{AUTHORIZATION: '{}'}}",
        "cluster.env={{HTTPS_PROXY: 'me:{}@host:3128'}}",
        "cluster.env={{CONNECTION: 'host=db password={}'}}",
        "cluster.env={{HEADER: 'Bearer 0123456789abcdef{}'}}",
        "generate.engine={{hf_overrides: {{token: '{}'}}}}",
        "cluster.environment={{'HF_TOKEN': \"{}\"}}",
        "hf_token={}",
        "data.train={{path: x, token: '{}'}}",
        "tracking={{MLFLOW_TRACKING_PASSWORD: '{}'}}",
        "AWS_SECRET_ACCESS_KEY: '{}'",
    ],
)
def test_what_stands_under_the_name_of_a_secret_is_refused_unseen(tmp_path: Path, override: str, secret: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_job(make_project(tmp_path), [override.format(secret)])
    assert secret not in str(refused.value) and SECRET not in str(refused.value)


@pytest.mark.parametrize("secret", ISSUED)
@pytest.mark.parametrize(
    "override", ["cluster.secrets=['{}']", "cluster.env={{MINE: '{}'}}", "name='{}'", "data.template='{{question}} {}'"]
)
def test_a_key_is_refused_unseen_wherever_it_stands(tmp_path: Path, override: str, secret: str) -> None:
    with pytest.raises(BadInput, match="looks like a secret key, and what a job file holds is written") as refused:
        load_job(make_project(tmp_path), [override.format(secret)])
    assert secret not in str(refused.value) and SECRET not in str(refused.value)
    job = make_project(tmp_path)
    job.write_text(job.read_text() + f"cluster: {{env: {{'{secret}': x}}}}\n")
    with pytest.raises(BadInput) as refused:
        load_job(job)
    assert secret not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        *("task-0123456789-0123456789", "risk-adjusted-returns-of-markets", "hf_overrides", "ghp_", "sk-learn", "AKIA"),
        *("models/hf_0123456789", "x.eyJ.eyJ", "BEGIN PUBLIC KEY", "tokens: 5"),
    ],
)
def test_what_is_no_key_is_let_be(tmp_path: Path, text: str) -> None:
    assert load_job(make_project(tmp_path), [f"data.template='{{question}} {text}'"]).job.data.template.endswith(text)
    assert without_secrets(f"train.tokens_per_microbatch={text}").endswith(text)


def test_what_only_looks_like_a_secret_is_taken(tmp_path: Path) -> None:
    engine = "{hf_token: true, hf_overrides: {eos_token: '</s>'}}"
    plain = "{NCCL_SOCKET_IFNAME: '=eth0', NO_PROXY: 'localhost,10.0.0.1:80', TOKENIZERS_PARALLELISM: 'basic settings'}"
    overrides = ["tracking.uri=postgresql://me@host/x", f"generate.engine={engine}", f"cluster.env={plain}"]
    job = load_job(make_project(tmp_path), overrides).job
    assert job.tracking.uri == "postgresql://me@host/x" and job.generate.engine["hf_token"] is True


@pytest.mark.parametrize("where", ["job", "set", "arm"])
def test_a_comparison_with_a_password_is_refused(tmp_path: Path, where: str) -> None:
    job = make_project(tmp_path)
    held: dict[str, Any] = {"tracking.uri": HELD[3]}
    if where == "job":
        job.write_text(yaml.safe_dump(yaml.safe_load(job.read_text()) | {"tracking": {"uri": HELD[3]}}))
    file = tmp_path / "compare.yaml"
    said = {"name": "c", "job": "tiny.yaml", "arms": {"irpo": {"set": held} if where == "arm" else {}}}
    file.write_text(yaml.safe_dump(said | ({"set": held} if where == "set" else {})))
    with pytest.raises(BadInput, match=r"\.yaml:\d+:\d+: tracking.uri: this address holds a password") as refused:
        load_plan(file)
    assert SECRET not in str(refused.value)


def files_with_the_secret(folder: Path) -> list[str]:
    return [str(file) for file in folder.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]


def test_the_copy_of_a_job_file_holds_no_password_that_an_override_took_the_place_of(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    job.write_text(
        job.read_text().partition("tracking:")[0] + f"# or postgresql://me:{SECRET}@h\ntracking: {{uri: '{HELD[0]}'}}\n"
    )
    run_job(job, StandIns(), "tracking={enabled: false}", "rounds=1")
    assert files_with_the_secret(tmp_path / "run") == []
    assert load_job(tmp_path / "run/job.yaml").job.tracking.uri is None


def test_the_copy_of_a_job_file_holds_no_key_of_a_comment(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    job.write_text(job.read_text() + f"# export OPENAI_API_KEY={ISSUED[0]}\n")
    run_job(job, StandIns(), "rounds=1")
    assert files_with_the_secret(tmp_path / "run") == [] and load_job(tmp_path / "run/job.yaml").job.name == "tiny"


# A run that an earlier version made


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A run of two rounds, whose ledger holds a password in the settings and the overrides."""
    run_job(make_project(tmp_path), StandIns(), "rounds=1")
    run = tmp_path / "run"
    ledger = Ledger(run / "ledger")
    config = ledger.state.configs[-1]
    job = config["job"] | {"tracking": config["job"]["tracking"] | {"uri": HELD[3]}}
    ledger.claim({"host": "elsewhere", "pid": 1})
    ledger.append(
        "config", config | {"job": job, "overrides": ["rounds=1", f"tracking={{enabled: false, uri: '{HELD[3]}'}}"]}
    )
    ledger.append("end", {"state": "interrupted", "reason": "SIGTERM"})
    return run


def test_a_run_that_holds_a_password_can_be_read(earlier: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert verify(earlier).findings == []
    assert status(earlier)["rounds"] and SECRET not in json.dumps(status(earlier)) + report_text(earlier, SOURCES)
    items = needing_trust(earlier, Ledger(earlier / "ledger").state)
    assert [str(item) for item in items if item.key == "tracking.uri"] and SECRET not in "\n".join(map(str, items))
    for command in (("status",), ("verify",), ("gc", "--dry-run")):
        assert ratchet(command[0], earlier, *command[1:]) in (0, 1)
    assert ratchet("resume", earlier) == 2 and ratchet("resume", earlier, "--trust") == 2
    assert SECRET not in "".join(capfd.readouterr())


def test_a_run_that_holds_a_password_goes_on_with_another_address(earlier: Path, tmp_path: Path) -> None:
    for overrides in ((), ("rounds=2",)):
        with pytest.raises(BadInput, match=r"tracking.uri: this address holds .*`tracking.uri=\.\.\.`") as refused:
            resumed(earlier, overrides)
        assert SECRET not in str(refused.value)
    for given in (resumed, load):
        file = given(earlier if given is resumed else earlier / "job.yaml", ["tracking.uri=http://host", "rounds=2"])
        assert file.job.tracking.uri == "http://host" and SECRET not in str(file)


def test_a_fork_takes_no_password_with_it(earlier: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"tracking.uri: this address holds .*`tracking.uri=\.\.\.`") as refused:
        fork(earlier, tmp_path / "child")
    assert SECRET not in str(refused.value) and not (tmp_path / "child").exists()
    fork(earlier, tmp_path / "child", ["tracking.uri=http://host"])
    fork(
        earlier,
        tmp_path / "shown",
        ["tracking.uri=http://host"],
        tell=lambda text: pytest.fail(text) if SECRET in text else None,
    )
    assert files_with_the_secret(tmp_path / "child") + files_with_the_secret(tmp_path / "shown") == []
    with pytest.raises(BadInput, match=r"tracking.uri: this address holds"):
        rescore(earlier, tmp_path / "again", 1, [], print, (), lambda _job, _logs: StandIns())
    other = ["tracking={enabled: false}", "grade.timeout=3"]
    with pytest.raises(BadInput, match="rescoring changes the grading alone"):
        rescore(earlier, tmp_path / "again", 1, other, print, (), lambda _job, _logs: StandIns())
    given = ["tracking.uri=null", "grade.graders=[number]"]
    rescore(earlier, tmp_path / "again", 1, given, print, (), lambda _job, _logs: StandIns())
    assert files_with_the_secret(tmp_path / "again") == []


def test_an_engine_argument_that_decides_results_stays_in_a_run_that_has_it(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample", generate={"samples": 4, "engine": {"hf_token": SECRET}})
    run.claim()
    run.configure()
    run.baseline()
    assert resumed(run.root, [], lambda _: None).job.generate.engine == {"hf_token": SECRET}
    with pytest.raises(BadInput, match=r"generate.engine.hf_token: must not stand here") as refused:
        fork(run.root, tmp_path / "child")
    assert SECRET not in str(refused.value)
