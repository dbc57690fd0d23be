"""--download: an archive as its publisher made it, or one line and no file left behind."""
import hashlib
import io
import random
import socketserver
import threading
import zipfile

import pytest
from helpers import refused
from worlds import read, rows_of, write

from alro import AlroError
from plumbing import files


@pytest.fixture
def site(monkeypatch):
    """A loopback server in GroupLens's place: {path: the whole reply, header and body}."""
    served = {}

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            path = self.rfile.readline().split()[1].decode()
            while self.rfile.readline().strip():
                pass
            self.wfile.write(served.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(files, "GROUPLENS", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("no_proxy", "*")
        yield served
        server.shutdown()


def reply(body):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def serve(site, folder, members):
    """Put a zip of ml-100k, and its MD5, on the site."""
    write(folder, "ml-100k")
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        for name in members:
            archive.write(folder / name.split("/")[-1], name)
    md5 = hashlib.md5(file.getvalue()).hexdigest()
    site |= {"/ml-100k.zip": reply(file.getvalue()), "/ml-100k.zip.md5": reply(f"MD5 (ml-100k.zip) = {md5}\n".encode())}


def test_download(site, tmp_path, tmp_path_factory):
    """A good archive loads, its other members stay in it; a second call needs no server, unless a file is gone."""
    serve(site, tmp_path_factory.mktemp("away"), ["../u.item", "../../u.data", "ml-100k/u.data", "ml-100k/u.item"])
    folder = tmp_path / "deep" / "ml-100k"
    first = read(folder, "ml-100k", download=True)
    site.clear()
    assert rows_of(read(folder, "ml-100k", download=True)) == rows_of(first) and len(first.columns.titles) == 3
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {folder / "u.data", folder / "u.item"}
    (folder / "u.item").unlink()
    with refused("ml-100k.zip"):
        read(folder, "ml-100k", download=True)


@pytest.mark.parametrize("fault", ["wrong MD5", "bad .md5", "cut short", "cut chunk", "not HTTP", "no .md5", "no zip",
                                   "not a zip", "no member", "evil member", "no server"])
def test_download_faults(site, tmp_path, tmp_path_factory, fault, monkeypatch):
    """Each is an AlroError that names the address, and leaves no file behind."""
    more = {"no member": [], "evil member": ["../u.item", "u.item"]}.get(fault, ["ml-100k/u.item"])
    serve(site, tmp_path_factory.mktemp("away"), ["ml-100k/u.data", *more])
    url = "/ml-100k.zip"
    site |= {"wrong MD5": {f"{url}.md5": reply(b"0" * 32)}, "bad .md5": {f"{url}.md5": reply(b"\xff")},
             "cut short": {url: site[url][:-200]}, "not HTTP": {url: b"220 smtp ready\r\n"},
             "not a zip": {url: reply(b"x"), f"{url}.md5": reply(hashlib.md5(b"x").hexdigest().encode())},
             "cut chunk": {url: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\nabc"}}.get(fault, {})
    site.pop({"no .md5": f"{url}.md5", "no zip": url}.get(fault), None)
    if fault == "no server":
        monkeypatch.setattr(files, "GROUPLENS", "http://127.0.0.1:9")
    with refused("ml-100k.zip"):
        read(tmp_path / "data", "ml-100k", download=True)
    assert set(tmp_path.rglob("*")) <= {tmp_path / "data"}  # at most the empty folder


def test_damaged_archives_leave_no_file(site, tmp_path):
    """200 damaged archives whose stated MD5 fits (the checks after it are on their own): loaded whole, or one line and
    an empty folder."""
    write(tmp_path, "ml-100k")
    with zipfile.ZipFile(archive := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as members:
        for file in ("u.data", "u.item"):
            members.write(tmp_path / file, f"ml-100k/{file}")
    draw, outcomes = random.Random(0), set()
    for n in range(200):
        content = bytearray(archive.getvalue())
        for _ in range(draw.randint(1, 3)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        content = bytes(content[:draw.randrange(len(content))] if n % 10 == 0 else content)
        site |= {"/ml-100k.zip": reply(content), "/ml-100k.zip.md5": reply(hashlib.md5(content).hexdigest().encode())}
        folder = tmp_path / f"{n}"
        try:
            files.download("ml-100k", folder)
        except AlroError as error:
            assert len(str(error).splitlines()) == 1 and "ml-100k.zip" in str(error)
            assert not list(folder.iterdir())
            outcomes.add("refused")
        else:
            assert sorted(path.name for path in folder.iterdir()) == ["u.data", "u.item"]
            assert all((folder / file).read_bytes() == (tmp_path / file).read_bytes() for file in ("u.data", "u.item"))
            outcomes.add("loaded")
    assert outcomes == {"loaded", "refused"}
