"""An S3 server that decides creates atomically: moto behind one lock.

moto checks If-None-Match and then stores, in several threads: 15 winners in 4 rounds. One lock
around each request, whose body is read before, makes check and store one step. Listings are cut
into short pages, so that clients have to ask for the next ones.

Run as a program it prints its port and serves until its standard input ends.
"""

import io
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs, urlencode

PAGE = 50
BUCKET = "bucket"
OPTIONS = {"key": "test", "secret": "testtest", "client_kwargs": {"region_name": "us-east-1"}}

Environment = dict[str, Any]
Application = Callable[[Environment, Any], Iterable[bytes]]


def locked(application: Application, *, honest: bool = True) -> Application:
    """Return the application with one request at a time, and short pages.

    A dishonest one does not see the condition of a create, like servers that do not know it.
    """
    lock = threading.Lock()

    def serve(environment: Environment, start: Any) -> Iterable[bytes]:
        if environment.get("HTTP_TRANSFER_ENCODING", "") != "chunked":
            length = int(environment.get("CONTENT_LENGTH") or 0)
            environment["wsgi.input"] = io.BytesIO(environment["wsgi.input"].read(length))
        query = parse_qs(environment.get("QUERY_STRING", ""), keep_blank_values=True)
        if "list-type" in query:
            query["max-keys"] = [str(PAGE)]
            environment["QUERY_STRING"] = urlencode(query, doseq=True)
        if not honest:
            environment.pop("HTTP_IF_NONE_MATCH", None)
        with lock:
            return [b"".join(application(environment, start))]

    return serve


def main(*flags: str) -> None:
    """Serve on a free port of the loopback interface, with one bucket made."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
            pass

    application = locked(
        DomainDispatcherApplication(create_backend_app), honest="--dishonest" not in flags
    )
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{server.port}",
        aws_access_key_id=OPTIONS["key"],
        aws_secret_access_key=OPTIONS["secret"],
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    print(server.port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
