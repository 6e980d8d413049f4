#!/usr/bin/env python3
"""Deploys a component to a cluster and calls it, with a stock gRPC client.

    python3 sdk/python/example.py --component examples/echo/echo.wasm
"""

import argparse
import pathlib
import sys

# What test runners take for "skipped".
EXIT_SKIPPED = 77


def main():
    parser = argparse.ArgumentParser(description="Deploy a component and call it over gRPC")
    parser.add_argument("--credentials", type=pathlib.Path, help="a credentials file")
    parser.add_argument("--api", help="host:port of any node's API, if not that of the file")
    parser.add_argument("--component", type=pathlib.Path, required=True, help="a .wasm component")
    parser.add_argument("--app", default="python-client", help="name of the app")
    parser.add_argument(
        "--selftest",
        action="store_true",
        help="check the whole client against a cluster; needs examples/echo/echo.wasm",
    )
    arguments = parser.parse_args()
    try:
        import nigh_client
    except ImportError as missing:
        print(f"skipped: {missing}; pip install -r sdk/python/requirements.txt", file=sys.stderr)
        return EXIT_SKIPPED
    component = arguments.component.read_bytes()
    credentials = arguments.credentials or nigh_client.find_credentials()
    if not credentials.exists():
        print(f"there are no credentials at {credentials}: name a file with --credentials", file=sys.stderr)
        return 2
    with nigh_client.Nigh(credentials, arguments.api) as nigh:
        if arguments.selftest:
            import selftest

            return selftest.run(nigh, component, arguments.app)
        return deploy_and_call(nigh, component, arguments.app)


def deploy_and_call(nigh, component, app):
    import grpc
    import nigh_client
    import nigh_stubs as stubs

    try:
        digest = nigh.upload(component)
        function = stubs.apps.FunctionSpec(
            name="main", component=digest, component_bytes=len(component)
        )
        deployed = nigh.deploy(app, function)
        rollout = nigh.wait_until_active(app, deployed.revision)
        ready = sum(node.ready for node in rollout.nodes)
        print(f"{app} {deployed.revision} is active, ready on {ready} nodes")

        answer = nigh.invoke(app, body=b"hello from Python\n")
        execution = answer.execution
        print(f"{answer.status} from {execution.node} in {execution.region}: {answer.body!r}")

        print("streamed:")
        for part in nigh.stream(app, [b"one ", b"two ", b"three\n"]):
            print(f"  {part.WhichOneof('part')}")
    except grpc.RpcError as error:
        reason = nigh_client.reason_of(error) or error.code().name
        print(f"{reason}: {error.details()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
