"""Everything that a stock gRPC client must be able to do, checked against a cluster.

Prints a line per check. Deploys an app of the echo example and removes it at the end.
"""

import hashlib
import sys
import traceback
import uuid

import grpc

import nigh_stubs as stubs
from nigh_client import reason_of

# More than grpcio takes by default, less than a body may have.
LARGE_BODY_BYTES = 6 << 20


def run(nigh, component, app):
    """Runs every check in order; 0 when all hold, 1 at the first that does not."""
    test = Selftest(nigh, component, app)
    checks = [
        test.nodes_are_listed,
        test.a_component_is_uploaded_and_known,
        test.a_wrong_digest_is_refused,
        test.what_is_no_component_is_refused,
        test.a_component_that_is_not_there_cannot_be_deployed,
        test.a_bad_spec_is_refused,
        test.a_check_changes_nothing,
        test.a_deploy_becomes_active,
        test.the_same_deploy_changes_nothing,
        test.an_app_says_where_it_is,
        test.a_call_is_answered,
        test.a_status_of_the_function_is_no_error,
        test.a_large_body_comes_back,
        test.a_stream_comes_back_in_order_and_ends_with_its_execution,
        test.a_stream_without_a_head_is_refused,
        test.a_deadline_is_kept,
        test.a_deleted_app_is_gone,
    ]
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            check()
        except (AssertionError, RuntimeError, grpc.RpcError) as error:
            print(f"FAILED  {name}", flush=True)
            if isinstance(error, grpc.RpcError):
                print(f"{error.code()} {reason_of(error)}: {error.details()}", file=sys.stderr)
            traceback.print_exc()
            return 1
        print(f"ok      {name}", flush=True)
    print(f"{len(checks)} passed, 0 failed")
    return 0


class Selftest:
    def __init__(self, nigh, component, app):
        self.nigh = nigh
        self.component = component
        self.app = app
        self.digest = "sha256:" + hashlib.sha256(component).hexdigest()
        self.revision = None
        nigh.delete(app)

    def function(self, **changes):
        fields = {
            "name": "echo",
            "component": self.digest,
            "component_bytes": len(self.component),
            "env": {"GREETING": "hello"},
        }
        return stubs.apps.FunctionSpec(**{**fields, **changes})

    def nodes_are_listed(self):
        status = self.nigh.cluster.Status(stubs.cluster.StatusRequest(), timeout=10)
        nodes = self.nigh.cluster.ListNodes(stubs.cluster.ListNodesRequest(), timeout=10).nodes
        names = [node.name for node in nodes]
        expect(status.node in names, f"{status.node} is in {names}")

    def a_component_is_uploaded_and_known(self):
        equal(self.nigh.upload(self.component), self.digest)
        equal(self.nigh.upload(self.component), self.digest)
        expect(self.nigh.is_known(self.digest), "the component is known")
        expect(not self.nigh.is_known("sha256:" + "0" * 64), "another one is not")

    def a_wrong_digest_is_refused(self):
        other = "sha256:" + hashlib.sha256(uuid.uuid4().bytes).hexdigest()
        refused("DIGEST_MISMATCH", lambda: self.nigh.upload(self.component, other))

    def what_is_no_component_is_refused(self):
        error = refused("NOT_WASM", lambda: self.nigh.upload(b"not a component"))
        equal(error.code(), grpc.StatusCode.INVALID_ARGUMENT)

    def a_component_that_is_not_there_cannot_be_deployed(self):
        function = self.function(component="sha256:" + "0" * 64)
        refused("NO_SUCH_COMPONENT", lambda: self.nigh.deploy(self.app, function))

    def a_bad_spec_is_refused(self):
        function = self.function(limits=stubs.apps.Limits(timeout_ms=10**9))
        error = refused("BAD_SPEC", lambda: self.nigh.deploy(self.app, function))
        expect("timeout" in error.details(), error.details())

    def a_check_changes_nothing(self):
        answer = self.nigh.deploy(self.app, self.function(), validate_only=True)
        equal(answer.revision, "")
        get = lambda: self.nigh.apps.Get(stubs.apps.GetAppRequest(app=self.app), timeout=10)
        refused("NO_SUCH_APP", get)

    def a_deploy_becomes_active(self):
        request_id = uuid.uuid4().hex
        answer = self.nigh.deploy(self.app, self.function(), request_id)
        expect(answer.changed and answer.revision, "a revision was made")
        again = self.nigh.deploy(self.app, self.function(), request_id)
        equal(again.revision, answer.revision)
        self.revision = answer.revision
        rollout = self.nigh.wait_until_active(self.app, self.revision)
        expect(any(node.ready for node in rollout.nodes), f"some node is ready: {rollout}")

    def the_same_deploy_changes_nothing(self):
        answer = self.nigh.deploy(self.app, self.function())
        equal((answer.changed, answer.revision), (False, self.revision))

    def an_app_says_where_it_is(self):
        apps = self.nigh.apps.List(stubs.apps.ListAppsRequest(), timeout=10).apps
        expect(self.app in [app.name for app in apps], "the app is listed")
        app = self.nigh.apps.Get(stubs.apps.GetAppRequest(app=self.app), timeout=10)
        equal(app.revision, self.revision)
        expect(app.functions[0].ready_nodes, "it is ready somewhere")

    def a_call_is_answered(self):
        answer = self.nigh.invoke(self.app, body=b"hello")
        equal((answer.status, answer.body), (200, b"hello"))
        execution = answer.execution
        equal(execution.revision, self.revision)
        expect(execution.node and execution.region and execution.entry, f"{execution}")
        expect(execution.request_id, "the call has an id")

    def a_status_of_the_function_is_no_error(self):
        answer = self.nigh.invoke(self.app, headers=[("x-echo-status", b"503")], body=b"?")
        equal(answer.status, 503)

    def a_large_body_comes_back(self):
        body = bytes(LARGE_BODY_BYTES)
        answer = self.nigh.invoke(self.app, body=body)
        expect(answer.body == body, f"{len(answer.body)} bytes came back")

    def a_stream_comes_back_in_order_and_ends_with_its_execution(self):
        sent = [bytes([n]) * 100_000 for n in range(10)]
        trailers = [("x-checksum", b"42")]
        parts = list(self.nigh.stream(self.app, sent, trailers=trailers))
        kinds = [part.WhichOneof("part") for part in parts]
        equal((kinds[0], kinds[-1]), ("head", "execution"))
        equal(parts[0].head.status, 200)
        came = b"".join(part.chunk for part in parts if part.WhichOneof("part") == "chunk")
        expect(came == b"".join(sent), f"{len(came)} bytes came back")
        headers = [h for part in parts for h in part.trailers.headers]
        equal([(h.name, h.value) for h in headers], trailers)

    def a_stream_without_a_head_is_refused(self):
        chunk = stubs.invoker.InvokeStreamRequest(chunk=b"too early")
        call = lambda: list(self.nigh.invoker.InvokeStream(iter([chunk]), timeout=10))
        refused("INVALID_CALL", call)

    def a_deadline_is_kept(self):
        call = lambda: self.nigh.invoke(self.app, path="/drip?n=100&ms=100", timeout=1)
        error = refused(None, call)
        equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        # On a busy machine this client's own clock may be first.
        expect(reason_of(error) in ("CALLER_DEADLINE", None), f"{reason_of(error)}")

    def a_deleted_app_is_gone(self):
        expect(self.nigh.delete(self.app), "it was there")
        error = refused("NO_SUCH_APP", lambda: self.nigh.invoke(self.app))
        equal(error.code(), grpc.StatusCode.NOT_FOUND)


def expect(holds, what):
    if not holds:
        raise AssertionError(f"expected: {what}")


def equal(actual, expected):
    if actual != expected:
        raise AssertionError(f"expected {expected!r}, got {actual!r}")


def refused(reason, call):
    """The error that a call ends with; its reason must be this one unless that is None."""
    try:
        answer = call()
    except grpc.RpcError as error:
        if reason is not None:
            equal(reason_of(error), reason)
        return error
    raise AssertionError(f"expected {reason or 'an error'}, got {answer!r}")
