"""Downloads against a server that breaks off, truncates, ignores ranges, changes the file and lies."""

import hashlib
import json

import pytest
from nasty_server import Behaviour, serve

from TumorSynthLib.errors import Cancelled, ModelError
from TumorSynthLib.models import download as module
from TumorSynthLib.models import plan_install
from TumorSynthLib.models.download import Rules, check_address, download, fetch, remote_size

DATA = bytes(range(256)) * 4096  # 1 MiB, so that several reads are needed
SHA = hashlib.sha256(DATA).hexdigest()
RULES = Rules(attempts=3, first_pause_s=0.001, timeout_s=60, allow_loopback_http=True)


@pytest.fixture
def nasty():
    return Behaviour(DATA)


@pytest.fixture
def get(nasty, tmp_path):
    """Download from the nasty server; the file's bytes."""
    with serve(nasty) as base:

        def run(sha256=SHA, **options):
            path = tmp_path / "downloads" / "model.zip"
            download(
                f"{base}/model.zip", path, max_bytes=2 * len(DATA), sha256=sha256, rules=RULES, **options
            )
            return path.read_bytes()

        yield run


@pytest.fixture
def part(tmp_path):
    return tmp_path / "downloads" / "model.zip.part"


def test_a_good_server_gives_the_file_in_one_request(get, nasty, part):
    seen = []
    assert get(progress=lambda stage, fraction: seen.append((stage, fraction))) == DATA
    assert len(nasty.gets()) == 1
    assert seen[-1] == ("download", 1.0)
    assert [fraction for _, fraction in seen] == sorted(fraction for _, fraction in seen)
    assert sorted(path.name for path in part.parent.iterdir()) == ["model.zip"]


def test_dropped_connections_are_resumed_where_they_broke(get, nasty):
    nasty.drop_after = [300_000, 200_000, 100_000, 1, 400_000]
    assert get() == DATA
    gets = nasty.gets()
    assert [headers.get("Range") for headers in gets] == [
        None, "bytes=300000-", "bytes=500000-", "bytes=600000-", "bytes=600001-", "bytes=1000001-",
    ]  # fmt: skip
    assert all(headers["If-Range"] == '"one"' for headers in gets[1:])


def test_a_later_run_continues_the_part(get, nasty, part):
    nasty.drop_after = [700_000, 0, 0, 0]
    with pytest.raises(ModelError, match="broke off after 700,000 bytes; start it again"):
        get()
    assert part.stat().st_size == 700_000
    assert not (part.parent / "model.zip").exists()
    nasty.drop_after, nasty.requests = [], []
    assert get() == DATA
    assert nasty.gets()[0]["Range"] == "bytes=700000-"


def test_last_modified_guards_where_the_etag_is_weak(get, nasty):
    nasty.etag, nasty.last_modified = 'W/"weak"', "Wed, 21 Oct 2015 07:28:00 GMT"
    nasty.drop_after = [500_000]
    assert get() == DATA
    assert nasty.gets()[1]["If-Range"] == nasty.last_modified


def test_without_a_version_mark_it_starts_over(get, nasty):
    nasty.etag = None
    nasty.drop_after = [500_000]
    assert get() == DATA
    assert "Range" not in nasty.gets()[1]


def test_a_server_without_ranges_starts_over(get, nasty):
    nasty.ranges = False
    nasty.drop_after = [500_000]
    assert get() == DATA


def test_a_file_that_changes_between_attempts_is_not_glued(get, nasty):
    old = b"\xff" * len(DATA)
    nasty.data, nasty.change_to = old, DATA
    nasty.drop_after = [500_000]
    assert get() == DATA
    assert nasty.gets()[1]["If-Range"] == '"one"'


def test_the_part_of_another_address_is_not_continued(get, nasty, part):
    part.parent.mkdir()
    part.write_bytes(b"\xff" * 1000)
    (part.parent / "model.zip.part.json").write_text(
        json.dumps({"url": "x", "validator": '"one"'}), encoding="utf-8"
    )
    assert get() == DATA
    assert "Range" not in nasty.gets()[0]


def test_a_part_with_wrong_bytes_is_fetched_again(get, nasty, part):
    nasty.drop_after = [500_000, 0, 0, 0]
    with pytest.raises(ModelError):
        get()
    part.write_bytes(b"\xff" * 500_000)
    nasty.drop_after, nasty.requests = [], []
    assert get() == DATA
    assert [headers.get("Range") for headers in nasty.gets()] == ["bytes=500000-", None]


def test_a_wrong_answer_to_a_range_starts_over(get, nasty):
    nasty.drop_after = [500_000]
    nasty.wrong_range = True
    assert get() == DATA
    assert [headers.get("Range") for headers in nasty.gets()] == [None, "bytes=500000-", None]


def test_a_file_that_keeps_changing_gives_up(get, nasty):
    nasty.drop_after = [1000] * 20
    nasty.wrong_range = True
    with pytest.raises(ModelError, match="changes the file all the time"):
        get()


def test_a_part_longer_than_the_file_starts_over(get, nasty):
    nasty.drop_after = [900_000, 0, 0, 0]
    with pytest.raises(ModelError):
        get()
    nasty.data, nasty.drop_after = DATA[:1000], []
    assert get(sha256=hashlib.sha256(DATA[:1000]).hexdigest()) == DATA[:1000]


def test_a_wrong_hash_installs_nothing_and_keeps_nothing(get, part):
    with pytest.raises(ModelError, match=f"its SHA-256 is {SHA}, expected {'0' * 64}"):
        get(sha256="0" * 64)
    assert list(part.parent.iterdir()) == []


def test_a_length_other_than_the_catalogues_is_refused_at_once(get, nasty, part):
    with pytest.raises(ModelError, match="has 1,048,576 bytes, expected 1,000"):
        get(size=1000)
    assert not part.exists()


def test_a_declared_length_over_the_limit_is_refused_at_once(get, nasty, part):
    nasty.declared = 10**12
    with pytest.raises(ModelError, match="more than the 2,097,152 allowed"):
        get()
    assert not part.exists()


def test_a_stream_without_length_is_cut_at_the_limit(get, nasty, part):
    nasty.no_length, nasty.data = True, DATA * 5
    with pytest.raises(ModelError, match="sends more than the 2,097,152 bytes"):
        get()
    assert not part.exists()


def test_a_stream_without_length_is_accepted_if_the_hash_agrees(get, nasty):
    nasty.no_length = True
    assert get() == DATA


def test_a_length_that_promises_too_much_counts_as_broken(get, nasty):
    nasty.declared = len(DATA) + 10
    with pytest.raises(ModelError, match="broke off|not the expected|changes the file"):
        get()


def test_a_length_that_promises_too_little_fails_the_hash(get, nasty):
    nasty.declared = 1000
    with pytest.raises(ModelError, match="not the expected file"):
        get()


def test_a_busy_server_is_asked_again(get, nasty, monkeypatch):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    nasty.statuses = [503, 429]
    assert get() == DATA
    assert pauses == [0.001, 0.002]


@pytest.mark.parametrize("status, message", [(404, "no such file"), (403, "refuses access"), (500, "failed")])
def test_errors_of_the_server_are_told(get, nasty, status, message):
    nasty.statuses = [status] * 3
    with pytest.raises(
        ModelError, match=f"{message} .HTTP {status}.; check the address, or install from a file"
    ):
        get()
    assert len(nasty.gets()) == (3 if status == 500 else 1)


def test_reencoded_files_are_refused(get, nasty):
    nasty.encoding = "gzip"
    with pytest.raises(ModelError, match="re-encoded"):
        get()


def test_redirects_are_followed_within_the_rules(get, nasty):
    nasty.redirect = "/moved"
    nasty.drop_after = [500_000]
    assert get() == DATA
    assert nasty.gets()[-1]["Range"] == "bytes=500000-"


@pytest.mark.parametrize("target", ["http://example.org/x", "file:///etc/passwd", "ftp://example.org/x"])
def test_redirects_away_from_https_are_refused(get, nasty, target):
    nasty.redirect = target
    with pytest.raises(ModelError, match="redirects to .* which is not https|HTTP 302"):
        get()


def test_redirects_in_a_circle_end(get, nasty):
    nasty.redirect = "/round"
    with pytest.raises(ModelError, match="HTTP 302"):
        get()


def test_cancelling_keeps_the_part_for_later(get, nasty, part):
    def cancel(stage, fraction):
        if fraction > 0.4:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        get(progress=cancel)
    assert 0 < part.stat().st_size < len(DATA)
    assert get() == DATA
    assert "Range" in nasty.gets()[-1]


def test_an_unreachable_server_is_one_clear_error(tmp_path):
    with serve(Behaviour(DATA)) as base:
        pass
    with pytest.raises(ModelError, match="can't be reached .*HTTPS_PROXY"):
        download(f"{base}/x", tmp_path / "x", max_bytes=10, sha256=SHA, rules=RULES)


def test_the_proxy_of_the_environment_is_used(tmp_path, monkeypatch, nasty):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serve(nasty) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        url = "http://127.0.0.1:9/model.zip"  # nothing listens there: only the proxy can answer
        download(url, tmp_path / "x", max_bytes=2 * len(DATA), sha256=SHA, rules=RULES)
    assert [path for _, path, _ in nasty.requests] == [url]


@pytest.mark.parametrize(
    "url",
    ["http://example.org/m.zip", "ftp://example.org/m", "file:///m.zip", "http://127.0.0.1/m", "https:///m"],
)
def test_only_https_is_allowed(url):
    with pytest.raises(ModelError, match="over https only"):
        check_address(url)


def test_http_is_allowed_to_this_machine_only_in_tests():
    check_address("http://127.0.0.1:8000/x", allow_loopback_http=True)
    with pytest.raises(ModelError):
        check_address("http://127.0.0.1.example.org/x", allow_loopback_http=True)


def test_passwords_in_addresses_are_not_shown():
    with pytest.raises(ModelError) as error:
        check_address("http://user:secret@example.org/x?token=hidden")
    assert "secret" not in str(error.value)
    assert "hidden" not in str(error.value)


def test_fetch_is_bounded_and_notices_truncation(nasty):
    with serve(nasty) as base:
        assert fetch(f"{base}/x", len(DATA), allow_loopback_http=True) == DATA
        with pytest.raises(ModelError, match="larger than"):
            fetch(f"{base}/x", 1000, allow_loopback_http=True)
        nasty.drop_after = [1000]
        with pytest.raises(ModelError, match="broke off|can't be reached"):
            fetch(f"{base}/x", len(DATA), allow_loopback_http=True)


QUICK = {"attempts": 2, "first_pause_s": 0.01, "allow_loopback_http": True}


@pytest.mark.parametrize(("limits", "message"), [
    ({"patience_s": 0.3}, "bytes a second only"), ({"patience_s": 60.0, "total_s": 0.3}, "takes more than"),
])  # fmt: skip
def test_a_server_that_sends_a_byte_now_and_then_is_given_up(tmp_path, limits, message):
    """Each byte comes within the timeout, so that nothing else would ever end it; the .part stays."""
    data = bytes(range(256)) * 40
    rules = Rules(**QUICK, **limits)
    with serve(Behaviour(data, byte_pause_s=0.02)) as url:
        with pytest.raises(ModelError, match=message):
            download(f"{url}/m.zip", tmp_path / "m.zip", max_bytes=10**6, sha256="0" * 64, rules=rules)
        assert 0 < (tmp_path / "m.zip.part").stat().st_size < len(data)


def test_a_catalogue_that_comes_byte_by_byte_is_given_up():
    with (
        serve(Behaviour(b"x" * 10**4, byte_pause_s=0.02)) as url,
        pytest.raises(ModelError, match="takes more than|no answer within"),  # within the same 0.3 s
    ):
        fetch(f"{url}/c.json", 10**6, allow_loopback_http=True, total_s=0.3)


def test_headers_that_never_end_are_given_up(tmp_path):
    rules = Rules(**QUICK, answer_s=0.3)
    with serve(Behaviour(b"x", head_pause_s=0.02)) as url:
        with pytest.raises(ModelError, match="no answer within"):
            download(f"{url}/m.zip", tmp_path / "m.zip", max_bytes=10**6, sha256="0" * 64, rules=rules)
        assert remote_size(f"{url}/m.zip", rules) is None


@pytest.mark.parametrize("url", [
    "https://[::1", "https://[::1]:99999/a.zip", "https://a\nb/c.zip", "https://a b/c.zip", "https://a:b/c.zip",
    "https://\x1b[2J/c.zip", "https://",
])  # fmt: skip
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ModelError):
        check_address(url)
    with pytest.raises(ModelError):
        plan_install(url, sha256="0" * 64)


@pytest.mark.parametrize("target", ["https://[::1", "https://[::1]:99999/a", "https://a:b/c"])
def test_a_redirection_to_no_address_is_refused(tmp_path, target):
    with serve(Behaviour(b"x", redirect=target)) as url, pytest.raises(ModelError):  # fmt: skip
        download(f"{url}/m.zip", tmp_path / "m.zip", max_bytes=9, sha256="0" * 64, rules=Rules(**QUICK))


@pytest.mark.parametrize("length", ["9" * 400, "9" * 5000, "\xb2", "-5"])
def test_a_size_that_is_none_is_unknown(length):
    with serve(Behaviour(b"x", declared=length)) as url:
        assert remote_size(f"{url}/m.zip", Rules(**QUICK)) is None
