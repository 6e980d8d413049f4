//! The two ways to the image.

use crate::yaml::text;

/// What a stage that copies from source takes its files from.
const STAGE: &str = "--from=build /src/target/image/context/";

/// The instructions of the last stage.
fn last_stage(path: &str) -> Vec<String> {
    let text = text(path);
    let (_, stage) = text.rsplit_once("FROM scratch\n").unwrap();
    let lines = stage.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.replace(STAGE, "")).collect()
}

#[test]
fn an_image_from_source_is_the_same_image() {
    let copied = last_stage("Dockerfile");
    assert_eq!(copied, last_stage("Dockerfile.source"));
    assert!(text("Dockerfile.source").contains("cargo xtask image --context"));
}

#[test]
fn the_image_runs_as_nobody_in_particular() {
    let lines = last_stage("Dockerfile");
    let has = |line: &str| assert!(lines.iter().any(|own| own == line), "no {line}");
    has("USER 65532:65532");
    has("COPY --chown=65532:65532 empty /data");
    has("VOLUME /data");
    has(r#"ENTRYPOINT ["/nigh"]"#);
    assert_eq!(lines.iter().filter(|line| line.starts_with("VOLUME")).count(), 1);
}

#[test]
fn the_compiler_is_the_one_that_is_pinned() {
    let root = env!("CARGO_MANIFEST_DIR");
    let pinned = std::fs::read_to_string(format!("{root}/../rust-toolchain.toml")).unwrap();
    let channel = pinned.lines().find_map(|line| line.strip_prefix("channel = \"")).unwrap();
    let minor = channel.trim_end_matches('"').rsplit_once('.').unwrap().0;
    assert!(text("Dockerfile.source").contains(&format!("FROM rust:{minor}-")), "{channel}");
}
