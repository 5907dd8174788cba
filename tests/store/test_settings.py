"""Credentials come from the environment or the settings file, and are never shown."""

import json
import logging
from pathlib import Path

import pytest

from runner.errors import SpecError, StoreRefusedError
from runner.store.filesystem import FileStore, open_store
from runner.store.remote import FsspecStore
from runner.store.schemes import check_folder
from runner.store.settings import mask, settings_for

SECRET = "geheim-42"


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "settings.json"
    monkeypatch.setenv("RUNNER_SETTINGS", str(path))
    monkeypatch.delenv("RUNNER_STORAGE_OPTIONS", raising=False)
    return path


def test_the_longest_fitting_prefix_counts(settings_file: Path) -> None:
    stores = {
        "s3://lab": {"storage_options": {"profile": "lab"}},
        "s3://lab/secret": {"storage_options": {"profile": "boss"}, "single_writer": True},
    }
    settings_file.write_text(json.dumps({"stores": stores}))
    assert settings_for("s3://lab/runs").storage_options == {"profile": "lab"}
    assert settings_for("s3://lab/secret/runs").storage_options == {"profile": "boss"}
    assert settings_for("s3://lab/secret/runs").single_writer
    assert settings_for("gs://other").storage_options == {}


def test_the_environment_wins(settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = {"s3://": {"storage_options": {"profile": "lab", "anon": False}}}
    settings_file.write_text(json.dumps({"stores": stores}))
    monkeypatch.setenv("RUNNER_STORAGE_OPTIONS", '{"profile": "mine"}')
    assert settings_for("s3://lab/runs").storage_options == {"profile": "mine", "anon": False}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"stores": 3}',
        '{"stores": {"s3://": {"storage_option": {}}}}',
        "\xff",
        '{"endpoint_url": "x"}',
    ],
)
def test_a_wrong_settings_file_is_named(settings_file: Path, text: str) -> None:
    settings_file.write_bytes(text.encode("latin1"))
    with pytest.raises(SpecError, match=r"settings\.json"):
        settings_for("s3://lab/runs")


def test_a_wrong_variable_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_STORAGE_OPTIONS", f'{{"secret": "{SECRET}"')
    with pytest.raises(SpecError, match="RUNNER_STORAGE_OPTIONS") as raised:
        settings_for("s3://lab/runs")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        f"s3://AKIA123:{SECRET}@bucket/runs",
        f"sftp://ann:{SECRET}@nas/runs",
        f"https://x.blob.core.windows.net/c?sv=1&sig={SECRET}&se=2",
        f"gs://bucket/x?access_token={SECRET}",
        f"password={SECRET}",
        f"{{'secret': '{SECRET}', 'key': 'k'}}",
        f'{{"aws_secret_access_key": "{SECRET}"}}',
        f"AccountName=a;AccountKey={SECRET};x=1",
        f"X-Amz-Signature={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"Authorization: Basic {SECRET}",
        f"S3://user:{SECRET}@bucket/runs",
        f"s3://user:a/b@{SECRET}@bucket/runs",
        f'Invalid bucket name "user:{SECRET}@bucket"',
        f"FileNotFoundError: u:{SECRET}@bucket",
        f"{{'private_key': '{SECRET}'}}",
        f"{{'token': {{'access': '{SECRET}'}}}}",
        f"{{'password': b'{SECRET}'}}",
        f"{{'secret': 'two words {SECRET}'}}",
        f"pwd={SECRET} passphrase={SECRET}",
        f"{{'sas': '{SECRET}'}}",
    ],
)
def test_secrets_are_masked(text: str) -> None:
    assert SECRET not in mask(text)
    assert "***" in mask(text)


def test_plain_urls_stay_as_they_are() -> None:
    for url in ("gs://bucket/runs", "s3://my-tokens/keys", "/home/ann/runs", "memory://x"):
        assert mask(url) == url
    assert mask("NoCredentialsError: Unable to") == "NoCredentialsError: Unable to"


def test_no_output_of_a_store_shows_its_password(caplog: pytest.LogCaptureFixture) -> None:
    """Not its url, not its errors, not its log lines, not its representation."""
    caplog.set_level(logging.DEBUG)
    store = FsspecStore(
        f"s3://user:{SECRET}@bucket/runs",
        storage_options={"secret": SECRET, "endpoint_url": "http://127.0.0.1:1"},
        patience_seconds=0.1,
    )
    with pytest.raises(OSError, match="s3://") as raised:
        store.put("a", b"1")
    ours = [record for record in caplog.records if record.name.startswith("runner")]
    shown = [store.url, repr(store), str(raised.value), *(r.getMessage() for r in ours)]
    assert SECRET not in " ".join(shown)


@pytest.mark.parametrize(
    "url",
    [
        "sftp://nas/runs",
        "hf://datasets/me/runs",
        "ftp://h/x",
        "webdav://h/x",
        "simplecache::s3://b",
        "memory://x",
    ],
)
def test_places_without_an_honest_create_are_refused(url: str, settings_file: Path) -> None:
    """Whatever is promised: on a real SFTP or WebDAV server a single writer never came far."""
    with pytest.raises(StoreRefusedError, match="can't hold jobs"):
        open_store(url, single_writer=True)


def test_a_scheme_that_nobody_knows_is_told(settings_file: Path) -> None:
    with pytest.raises(StoreRefusedError, match=r"no store is known by s4://.*s3://"):
        open_store("s4://bucket/runs")


def test_a_bucket_mounted_as_a_folder_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text(
        "/dev/sda1 / ext4 rw 0 0\n"
        f"drive {tmp_path}/my\\040drive fuse.rclone rw 0 0\n"
        f"/dev/sdb1 {tmp_path}/my\\040drive/disk ext4 rw 0 0\n"
    )
    with pytest.raises(StoreRefusedError, match=r"fuse\.rclone"):
        check_folder(tmp_path / "my drive" / "runs", single_writer=False, table=table)
    check_folder(tmp_path / "my drive" / "disk" / "runs", single_writer=False, table=table)
    check_folder(tmp_path / "my drive" / "runs", single_writer=True, table=table)
    with pytest.raises(StoreRefusedError, match="Drive keeps two files of one name"):
        open_store("/content/drive/MyDrive/runs")


@pytest.mark.parametrize("url", ["s3://", "gs:///", "s3:///folder"])
def test_a_url_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(StoreRefusedError, match="names no bucket"):
        open_store(url)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize(
    ("option", "near"),
    [("endpoint_ulr", "Did you mean 'endpoint_url'"), ("no_such_option_at_all", "storage_options")],
)
def test_unknown_storage_options_are_named(scheme: str, option: str, near: str) -> None:
    """Most clients take any, and go to Amazon's or Google's servers without a word."""
    with pytest.raises(StoreRefusedError, match=f"no storage option '{option}'.*{near}"):
        open_store(f"{scheme}://bucket/x", storage_options={option: 1}).read("a")


def test_an_endpoint_without_its_scheme_is_told() -> None:
    with pytest.raises(StoreRefusedError, match=r"'minio:9000'; expected http://"):
        open_store("s3://bucket/x", storage_options={"endpoint_url": "minio:9000"}).read("a")


@pytest.mark.parametrize("option", ["key", "endpoint_url"])
def test_a_storage_option_that_is_no_text_is_named(option: str) -> None:
    with pytest.raises(StoreRefusedError, match=f"option {option}: received 5; expected a text"):
        open_store("s3://bucket/x", storage_options={option: 5}).read("a")


def test_a_profile_that_is_not_there_is_no_lack_of_credentials() -> None:
    with pytest.raises(StoreRefusedError, match=r"lab.*There is no such profile") as refused:
        open_store("s3://bucket/x", storage_options={"profile": "lab"}).read("a")
    assert "gcloud" not in str(refused.value)


@pytest.mark.parametrize("url", ["rclone:lab", "c:/x", "s3://lab/runs?x=1", "gs://lab/runs#x"])
def test_what_looks_like_a_url_is_no_folder_unasked(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that an older version made of it stays one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreRefusedError, match="is no URL of a store"):
        open_store(url)
    if "://" not in url:
        assert open_store(f"./{url}").url == (tmp_path / url).as_uri()
        (tmp_path / url).mkdir(parents=True)
        assert open_store(url).url == (tmp_path / url).as_uri()


def test_known_storage_options_are_taken() -> None:
    open_store("s3://bucket/x", storage_options={"profile": None, "use_ssl": False})._made()  # type: ignore[attr-defined]
    open_store("gs://bucket/x", storage_options={"token": "anon", "project": "p"})._made()  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["{}", "file://{}", "local://{}"])
def test_paths_and_file_urls_are_folders(tmp_path: Path, form: str) -> None:
    store = open_store(form.format(tmp_path))
    assert isinstance(store, FileStore)
    assert store.url == f"file://{tmp_path}"


@pytest.mark.parametrize("name", ["plain", "sp ace", "ünï", "a%20b", "a%b", "#?"])
def test_the_url_that_is_shown_may_be_given_back(tmp_path: Path, name: str) -> None:
    store = open_store(str(tmp_path / name))
    store.put("a", b"1")
    assert open_store(store.url).url == store.url
    assert open_store(store.url).read("a") == b"1"


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("s3:/bucket/x", "s3://bucket/x"),
        ("s3://bucket//x", "s3://bucket/x"),
        ("gs:bucket", "gs://bucket"),
        ("file:/tmp/x", "file:///tmp/x"),
    ],
)
def test_slashes_too_few_or_too_many_are_told(url: str, right: str) -> None:
    with pytest.raises(StoreRefusedError, match=f"write {right}$"):
        open_store(url)
