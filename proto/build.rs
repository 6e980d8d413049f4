//! Compiles the protos with protox, so that no protoc is needed.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 12] = [
    "nigh/v1/access.proto",
    "nigh/v1/apps.proto",
    "nigh/v1/artifacts.proto",
    "nigh/v1/cluster.proto",
    "nigh/v1/invoker.proto",
    "nigh/v1/logs.proto",
    "nigh/peer/v1/artifacts.proto",
    "nigh/peer/v1/control.proto",
    "nigh/peer/v1/gossip.proto",
    "nigh/peer/v1/invoke.proto",
    "nigh/peer/v1/logs.proto",
    "nigh/peer/v1/raft.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=nigh");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("nigh.descriptors"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".nigh").build_transport(true).compile_fds(descriptors)?;
    Ok(())
}
