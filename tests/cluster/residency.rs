//! No byte of a function is where it may not be: whole data folders are searched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nigh_model::Digest;
use nigh_proto::v1::Artifact;

use crate::harness::{App, Cluster, Layout, Needs, Seen, component, run, wait_until};

const HOME: &str = "us-east-1";
/// Uploads and deploys enter here, outside the region.
const OUTSIDE: usize = 0;
/// The nodes inside.
const INSIDE: [usize; 2] = [2, 3];
/// Bytes of a file that are searched for: enough to be nowhere else by chance.
const WINDOW_BYTES: usize = 64;

/// What would give a component away: parts of its bytes, and its name.
struct Marks {
    windows: Vec<(&'static str, Vec<u8>)>,
    name: String,
}

#[test]
fn no_byte_of_a_function_is_outside_its_regions() {
    run(Needs::Room, Duration::from_secs(120), async {
        let layout = Layout::of(&["eu-west-1", "eu-west-1", HOME, HOME]);
        let cluster = Cluster::start(layout).await;
        said_with_the_upload_it_never_touches_another_disk(&cluster).await;
        not_said_it_leaves_once_its_revision_says_it(&cluster).await;
        cluster.end().await;
    });
}

/// `nigh` says where the bytes may be.
async fn said_with_the_upload_it_never_touches_another_disk(cluster: &Cluster) {
    let path = component("hello");
    let mut marks = Marks::of_component(&std::fs::read(&path).unwrap());
    cluster.deploy(OUTSIDE, &App::new("bound", path).regions(&[HOME])).await;
    marks.add_compiled(cluster.node(INSIDE[0]).data());
    cluster.answers(&[0, 1, 2, 3], "/bound", Duration::from_secs(5)).await;
    for node in 0..cluster.len() {
        let found = marks.found_in(cluster.node(node).data());
        if INSIDE.contains(&node) {
            // What is searched for can be found.
            for kind in ["name", "component"] {
                assert!(found.iter().any(|(what, _)| *what == kind), "{kind}: {found:?}");
            }
        } else {
            assert!(found.is_empty(), "on {}: {found:?}", cluster.node(node).name());
        }
    }
    let compiled_there = INSIDE.iter().any(|node| {
        let found = marks.found_in(cluster.node(*node).data());
        found.iter().any(|(what, _)| *what == "compiled")
    });
    assert!(compiled_there, "the compiled artifact is in one folder at least");
    // The same again, the component known by now: nothing is brought here to look at it.
    let same = App::new("bound", component("hello")).regions(&[HOME]);
    assert_eq!(cluster.deploy(OUTSIDE, &same).await["changed"], false);
    assert_eq!(marks.found_in(cluster.node(OUTSIDE).data()), []);
}

/// A client that does not say it has its upload kept, until the deploy says otherwise.
async fn not_said_it_leaves_once_its_revision_says_it(cluster: &Cluster) {
    let bytes = std::fs::read(component("echo")).unwrap();
    let marks = Marks::of_component(&bytes);
    let (digest, length) = (Digest::of(&bytes).to_string(), bytes.len() as u64);
    let head = Artifact { digest, bytes: length };
    let artifact = cluster.api(OUTSIDE).upload_as(head, &bytes).await.unwrap();
    let outside = cluster.node(OUTSIDE).data();
    let found = marks.found_in(outside);
    assert_eq!(found.iter().map(|(what, _)| *what).collect::<Vec<_>>(), ["name", "component"]);

    cluster.api(OUTSIDE).deploy_in("late", &artifact, &[HOME], "late-1").await.unwrap();
    wait_until("it has left", Duration::from_secs(10), || async {
        let found = marks.found_in(outside);
        Seen::when(found.is_empty(), found)
    })
    .await;
    cluster.answers(&[0, 1, 2, 3], "/late", Duration::from_secs(20)).await;
    for node in [0, 1] {
        assert_eq!(marks.found_in(cluster.node(node).data()), []);
    }
    for node in INSIDE {
        assert!(!marks.found_in(cluster.node(node).data()).is_empty(), "it can be found");
    }
}

impl Marks {
    fn of_component(bytes: &[u8]) -> Self {
        let name = Digest::of(bytes).hex();
        Self { windows: vec![("component", telling(bytes))], name }
    }

    /// Adds what was compiled of it, found by its name in a folder that has it.
    fn add_compiled(&mut self, data: &Path) {
        let named = |file: &&PathBuf| file.display().to_string().ends_with(".cwasm");
        let compiled = files(data);
        let compiled = compiled.iter().filter(named).find(|file| self.names(file));
        let compiled = compiled.expect("it is compiled there");
        self.windows.push(("compiled", telling(&std::fs::read(compiled).unwrap())));
    }

    fn names(&self, file: &Path) -> bool {
        file.file_name().is_some_and(|name| name.to_string_lossy().contains(&self.name))
    }

    /// What is found, and in which file, of all files of a folder.
    fn found_in(&self, data: &Path) -> Vec<(&'static str, PathBuf)> {
        let mut found = Vec::new();
        for file in files(data) {
            if self.names(&file) {
                found.push(("name", file.clone()));
            }
            // One that went while we looked holds nothing.
            let bytes = std::fs::read(&file).unwrap_or_default();
            for (what, window) in &self.windows {
                if contains(&bytes, window) {
                    found.push((*what, file.clone()));
                }
            }
        }
        found
    }
}

/// The part of a file with the most different bytes: code and text, and no padding.
fn telling(bytes: &[u8]) -> Vec<u8> {
    let different = |part: &[u8]| part.iter().collect::<std::collections::BTreeSet<_>>().len();
    let parts = bytes.windows(WINDOW_BYTES).step_by(WINDOW_BYTES / 4);
    let best = parts.max_by_key(|part| different(part)).expect("it is longer than that");
    assert!(different(best) > WINDOW_BYTES / 2, "it tells too little: {best:?}");
    let first = best.iter().position(|byte| *byte != 0).expect("they differ");
    best[first..].to_vec()
}

/// Quick also where most bytes are the zeros of a file that is filled later.
fn contains(bytes: &[u8], window: &[u8]) -> bool {
    let mut starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == window[0]);
    starts.any(|(at, _)| bytes[at..].starts_with(window))
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // A temporary folder may go while we look.
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => files.push(entry.path()),
                Err(_) => {}
            }
        }
    }
    files
}
