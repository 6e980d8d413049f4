"""A small client of nigh: what it takes to deploy, call, stream and read errors.

Nothing here is more than the generated stubs can do; it shows how they go together.
"""

import hashlib
import os
import pathlib
import tomllib
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import nigh_stubs as stubs

# A whole body of 10 MiB and what is around it. grpcio's own default is 4 MiB.
MESSAGE_BYTES_MAX = 11 << 20
UPLOAD_CHUNK_BYTES = 256 << 10
# The name that the certificates of all nodes carry, whatever their addresses are.
NODE_NAME = "nigh.internal"


def reason_of(error):
    """The stable reason of an error as in docs/errors.md; None when nigh did not make it."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == "nigh":
            return info.reason
    return None


def find_credentials():
    """The credentials file to use unless one is named, as the nigh command finds it."""
    named = os.environ.get("NIGH_CREDENTIALS")
    config = os.environ.get("XDG_CONFIG_HOME") or pathlib.Path.home() / ".config"
    own = pathlib.Path(config) / "nigh" / "credentials.toml"
    if named:
        return pathlib.Path(named)
    return own if own.exists() else pathlib.Path(".nigh") / "admin.toml"


class Nigh:
    """A connection to one node of a cluster; any node will do.

    credentials: path of a credentials file, as `nigh up` and `nigh operator token create` write
    them. api: host:port of a node's API; the file's first address when it is left out.
    """

    def __init__(self, credentials, api=None):
        known = tomllib.loads(pathlib.Path(credentials).read_text())
        channel_credentials = grpc.ssl_channel_credentials(known["ca"].encode())
        if "token" in known:
            # Sent as `authorization: Bearer TOKEN` with every call.
            shown = grpc.access_token_call_credentials(known["token"])
            channel_credentials = grpc.composite_channel_credentials(channel_credentials, shown)
        self.channel = grpc.secure_channel(
            (api or known["api"][0]).removeprefix("https://"),
            channel_credentials,
            options=[
                ("grpc.ssl_target_name_override", NODE_NAME),
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self.apps = stubs.apps_grpc.AppsStub(self.channel)
        self.artifacts = stubs.artifacts_grpc.ArtifactsStub(self.channel)
        self.cluster = stubs.cluster_grpc.ClusterStub(self.channel)
        self.invoker = stubs.invoker_grpc.InvokerStub(self.channel)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def is_known(self, digest, regions=()):
        """Whether the cluster has a component, so that it need not be uploaded. `regions` says
        where its bytes may be, as `placement.regions` does; none: anywhere."""
        try:
            request = stubs.artifacts.StatRequest(digest=digest, regions=regions)
            self.artifacts.Stat(request, timeout=10)
            return True
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return False
            raise

    def upload(self, component, digest=None, regions=()):
        """Uploads a component and returns its digest. A node outside `regions` keeps no byte of
        it: it hands them on to one inside."""
        digest = digest or "sha256:" + hashlib.sha256(component).hexdigest()
        head = stubs.artifacts.Artifact(digest=digest, bytes=len(component))

        def parts():
            yield stubs.artifacts.UploadRequest(head=head, regions=regions)
            for at in range(0, len(component), UPLOAD_CHUNK_BYTES):
                chunk = component[at : at + UPLOAD_CHUNK_BYTES]
                yield stubs.artifacts.UploadRequest(chunk=chunk)

        return self.artifacts.Upload(parts(), timeout=120).digest

    def deploy(self, app, function, request_id=None, validate_only=False):
        """Commits a revision of an app of one function. Trying again with the same request id
        is safe: it is answered the same."""
        request = stubs.apps.DeployRequest(
            app=app,
            spec=stubs.apps.AppSpec(functions=[function]),
            request_id=request_id or uuid.uuid4().hex,
            validate_only=validate_only,
        )
        return self.apps.Deploy(request, timeout=60)

    def wait_until_active(self, app, revision, timeout=60):
        """Waits until the revision answers; returns the last news of the rollout."""
        request = stubs.apps.WatchRolloutRequest(app=app, revision=revision)
        for rollout in self.apps.WatchRollout(request, timeout=timeout):
            if rollout.superseded:
                raise RuntimeError(f"{app} {revision} was replaced by a newer revision")
            if rollout.active:
                return rollout
        raise RuntimeError(f"the news of {app} {revision} ended before it was active")

    def delete(self, app):
        """Removes an app. True if there was one."""
        request = stubs.apps.DeleteAppRequest(app=app, request_id=uuid.uuid4().hex)
        try:
            self.apps.Delete(request, timeout=30)
            return True
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return False
            raise

    def invoke(self, function, path="", method="", headers=(), body=b"", timeout=30):
        """Calls a function; whole bodies both ways."""
        request = stubs.invoker.InvokeRequest(
            function=function, path=path, method=method, headers=_headers(headers), body=body
        )
        return self.invoker.Invoke(request, timeout=timeout)

    def stream(self, function, chunks, path="", headers=(), trailers=(), timeout=30):
        """Calls a function with bodies streamed both ways; yields the parts of its answer."""

        def parts():
            head = stubs.invoker.InvokeRequest(
                function=function, path=path, headers=_headers(headers)
            )
            yield stubs.invoker.InvokeStreamRequest(head=head)
            for chunk in chunks:
                yield stubs.invoker.InvokeStreamRequest(chunk=chunk)
            if trailers:
                last = stubs.invoker.Headers(headers=_headers(trailers))
                yield stubs.invoker.InvokeStreamRequest(trailers=last)

        return self.invoker.InvokeStream(parts(), timeout=timeout)


def _headers(pairs):
    return [stubs.invoker.Header(name=name, value=value) for name, value in pairs]
