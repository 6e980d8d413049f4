//! The public gRPC services besides the invoker.
