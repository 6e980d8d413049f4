"""Makes gRPC stubs from the protos into a folder of their own and imports them.

A project of yours would generate them once and keep them; see README.md for the command.
"""

import atexit
import importlib
import pathlib
import shutil
import sys
import tempfile

from grpc_tools import protoc

PROTOS = pathlib.Path(__file__).resolve().parents[2] / "proto"
SERVICES = ("apps", "artifacts", "cluster", "invoker", "logs")


def _generate():
    folder = tempfile.mkdtemp(prefix="nigh-stubs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    well_known = pathlib.Path(protoc.__file__).parent / "_proto"
    files = [f"nigh/v1/{service}.proto" for service in SERVICES]
    status = protoc.main(
        ["protoc", f"-I{PROTOS}", f"-I{well_known}"]
        + [f"--python_out={folder}", f"--grpc_python_out={folder}"]
        + files
    )
    if status != 0:
        raise RuntimeError(f"protoc ended with status {status}")
    sys.path.insert(0, folder)


_generate()

apps = importlib.import_module("nigh.v1.apps_pb2")
apps_grpc = importlib.import_module("nigh.v1.apps_pb2_grpc")
artifacts = importlib.import_module("nigh.v1.artifacts_pb2")
artifacts_grpc = importlib.import_module("nigh.v1.artifacts_pb2_grpc")
cluster = importlib.import_module("nigh.v1.cluster_pb2")
cluster_grpc = importlib.import_module("nigh.v1.cluster_pb2_grpc")
invoker = importlib.import_module("nigh.v1.invoker_pb2")
invoker_grpc = importlib.import_module("nigh.v1.invoker_pb2_grpc")
