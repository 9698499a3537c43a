#!/usr/bin/env python3
"""Python's huggingface_hub and quantbench on one cache: each downloads from a server of this script's own, and each is then
shown, without any server, what the other one left.

    tools/check_hub.py PROGRAM         status 77, and why, where neither this Python nor that of .ci/run has huggingface_hub
    tools/check_hub.py --tls PROGRAM   instead: whose certificates are trusted, over https, by quantbench alone
"""
import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading

COMMIT = "c" * 40
TOKEN = "hf_PlantedTokenOfTheCacheCheck"
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def etag(name):
    data = FILES[name]
    return hashlib.sha256(data).hexdigest() if name.endswith(".safetensors") else git_hash(data)


class Hub(http.server.BaseHTTPRequestHandler):
    """One repository, org/name. Weights are redirected to another host of this machine, as the Hub redirects to storage."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        if self.path.startswith("/cdn/"):
            if self.headers.get("Authorization"):
                LEAKS.append(self.path)
            return self.reply(200, {}, FILES[self.path.removeprefix("/cdn/")])
        if re.fullmatch(r"/api/models/org/name/revision/(main|%s)(\?.*)?" % COMMIT, self.path):
            siblings = [{"rfilename": n, "size": len(d), "blobId": git_hash(d)} for n, d in FILES.items()]
            return self.reply(200, {}, json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode())
        found = re.fullmatch(r"/org/name/resolve/(?:main|%s)/([^?]+)(\?.*)?" % COMMIT, self.path)
        if not found or found[1] not in FILES:
            return self.reply(404, {"X-Error-Code": "EntryNotFound" if found else "RepoNotFound", "X-Repo-Commit": COMMIT}, b"")
        name, headers = found[1], {"X-Repo-Commit": COMMIT, "ETag": f'"{etag(found[1])}"'}
        if not name.endswith(".safetensors"):
            return self.reply(200, headers, FILES[name])
        port, scheme = self.server.server_address[1], "https" if self.server.is_tls else "http"
        headers |= {"X-Linked-ETag": f'"{etag(name)}"', "X-Linked-Size": str(len(FILES[name])),
                    "Location": f"{scheme}://localhost:{port}/cdn/{name}"}
        return self.reply(302, headers, b"")

    do_HEAD = do_GET


def check(what, holds):
    if not holds:
        sys.exit(f"WRONG: {what}")
    print(f"{what}: yes")


def run(command, environment):
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    for text in (result.stdout, result.stderr):
        if TOKEN in text:
            sys.exit(f"WRONG: {command[0]} prints the token")
    if result.returncode != 0:
        sys.exit(f"WRONG: {command} ended with status {result.returncode}: {result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def layout(cache):
    """What is in a cache that the other program relies on: every path below models--*, with contents and links."""
    found = {}
    for path in sorted((cache / "models--org--name").rglob("*")):
        relative = str(path.relative_to(cache))
        if "/snapshots/" in relative and path.is_symlink():
            found[relative] = os.readlink(path)
        elif "/refs/" in relative or "/blobs/" in relative:
            found[relative] = path.read_bytes()
    return found


def serve(certificate=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.is_tls = certificate is not None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def check_tls(program):
    if not shutil.which("openssl"):
        print("skipped: there is no openssl to make a certificate with")
        sys.exit(77)
    FILES.update({"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights"})
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="quantbench_check_hub."))
    try:
        folder = scratch / "certificates"
        folder.mkdir()
        pem = folder / "own.pem"
        run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-addext",
             "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(scratch / "key"), "-out", str(pem)], {})
        (scratch / "chain").write_bytes((scratch / "key").read_bytes() + pem.read_bytes())
        run(["openssl", "rehash", str(folder)], {})
        server = serve(scratch / "chain")
        environment = {"HF_ENDPOINT": f"https://127.0.0.1:{server.server_address[1]}", "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "",
                       "TRANSFORMERS_OFFLINE": ""} | {name: "" for name in CERTIFICATES}
        # After one attempt, since a file lies in the cache to fall back on.
        for path in ("refs/main", f"snapshots/{COMMIT}/config.json", f"snapshots/{COMMIT}/tokenizer.json",
                     f"snapshots/{COMMIT}/model.safetensors"):
            file = scratch / "unknown/models--org--name" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(COMMIT if path == "refs/main" else "{}")
        text = run([program, "pull", "org/name"], environment | {"HF_HUB_CACHE": str(scratch / "unknown")})
        check("a certificate that nobody vouches for is refused", "self-signed certificate" in text.replace(" signed", "-signed"))
        for number, name in enumerate(CERTIFICATES):
            trusted = environment | {name: str(folder if name == "SSL_CERT_DIR" else pem), "HF_HUB_CACHE": str(scratch / str(number))}
            check(f"{name} makes it trusted", f"commit {COMMIT}, 3 files" in run([program, "pull", "org/name"], trusted))
        check("no token came to another host", not LEAKS)
        server.shutdown()
    finally:
        shutil.rmtree(scratch)


def main():
    if sys.argv[1] == "--tls":
        return check_tls(sys.argv[2])
    try:
        import huggingface_hub
    except ImportError as error:
        other = pathlib.Path(__file__).resolve().parent.parent / "build/hub_python/bin/python3"  # from .ci/run
        if other.exists() and pathlib.Path(sys.prefix) != other.parent.parent:
            os.execv(other, [str(other), *sys.argv])
        print(f"skipped: {sys.executable} has no huggingface_hub ({error})")
        sys.exit(77)
    program = sys.argv[1]
    model = pathlib.Path(__file__).resolve().parent.parent / "testdata/models/llama-gqa"
    for path in model.iterdir():
        FILES[path.name] = path.read_bytes()
    FILES["special_tokens_map.json"] = b"{}"
    server = serve()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="quantbench_check_hub."))
    try:
        ours, theirs = scratch / "ours", scratch / "theirs"
        online = {"HF_ENDPOINT": endpoint, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "",
                  "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(scratch / "home"), "no_proxy": "127.0.0.1,localhost"}
        offline = online | {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "1"}
        download = ("import sys, huggingface_hub as h\n"
                    "for name in sys.argv[2:]: print(h.hf_hub_download('org/name', name, local_files_only=sys.argv[1] == 'local'))")
        names = sorted(FILES)

        run([program, "pull", "org/name"], online | {"HF_HUB_CACHE": str(ours)})
        text = run([sys.executable, "-c", download, "local", *names], offline | {"HF_HUB_CACHE": str(ours)})
        paths = [pathlib.Path(line) for line in text.splitlines() if line.startswith(str(ours))]
        check(f"huggingface_hub {huggingface_hub.__version__} finds all {len(names)} files in the cache that quantbench wrote",
              len(paths) == len(names) and all(p.read_bytes() == FILES[p.name] for p in paths))

        run([sys.executable, "-c", download, "remote", *names], online | {"HF_HUB_CACHE": str(theirs)})
        text = run([program, "run", "--model-id", "org/name", "--pg", "4,4", "-r", "1", "--precision", "fp16", "--device",
                    "reference", "--out", str(scratch / "records"), "-o", "jsonl"],
                   offline | {"HF_HUB_CACHE": str(theirs)})
        check("quantbench runs the model in the cache that huggingface_hub wrote", f'"commit":"{COMMIT}"' in text)
        check("both wrote the same blobs, refs and links", layout(ours) == layout(theirs))

        text = run([program, "pull", "org/name"], online | {"HF_HUB_CACHE": str(theirs)})
        check("to quantbench the cache that huggingface_hub wrote is whole", "0 B of it downloaded now" in text)
        before = layout(ours)
        run([sys.executable, "-c", download, "remote", *names], online | {"HF_HUB_CACHE": str(ours)})
        check("to huggingface_hub the cache that quantbench wrote is whole", layout(ours) == before)
        check("no token came to another host", not LEAKS)
    finally:
        server.shutdown()
        shutil.rmtree(scratch)


FILES, LEAKS = {}, []
if __name__ == "__main__":
    main()
