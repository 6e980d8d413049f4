//! Artifacts: whole and named by their content, or not there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use nigh_model::{Digest, Kind};
use nigh_storage::artifacts::Attested;
use nigh_storage::disk::{FaultyDisk, Op};
use nigh_storage::{ArtifactStore, Disk, Error, RealDisk};

fn real() -> (tempfile::TempDir, ArtifactStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = ArtifactStore::open(folder.path(), Arc::new(RealDisk), [7; 32]).unwrap();
    (folder, store)
}

fn names(folder: &Path) -> Vec<String> {
    RealDisk.list(folder).unwrap()
}

#[test]
fn a_component_arrives_in_pieces_and_leaves_in_pieces() {
    let (_folder, store) = real();
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
    let digest = Digest::of(&bytes);
    let mut writer = store.begin().unwrap();
    for piece in bytes.chunks(999) {
        writer.write(piece).unwrap();
    }
    assert!(!store.has(digest).unwrap(), "it has its name before it is whole");
    writer.commit(digest, Some(bytes.len() as u64)).unwrap();
    assert_eq!(store.read(digest).unwrap(), bytes);
    assert_eq!(store.list().unwrap(), [digest]);
    let mut reader = store.open_reader(digest).unwrap();
    let mut read = Vec::new();
    while let Some(piece) = reader.next(7_000).unwrap() {
        read.extend_from_slice(&piece);
    }
    assert_eq!((read.len() as u64, &read), (reader.len(), &bytes));
    store.remove(digest).unwrap();
    store.remove(digest).unwrap();
    assert!(matches!(store.read(digest), Err(Error::NoSuchArtifact { .. })));
}

#[test]
fn a_wrong_digest_and_a_truncated_upload_are_refused_and_leave_nothing() {
    let (folder, store) = real();
    let digest = Digest::of(b"what was promised");
    let mut writer = store.begin().unwrap();
    writer.write(b"something else").unwrap();
    assert!(matches!(writer.commit(digest, None), Err(Error::WrongDigest { .. })));
    let mut writer = store.begin().unwrap();
    writer.write(b"what was").unwrap();
    let error = writer.commit(digest, Some(17)).unwrap_err();
    assert!(matches!(error, Error::WrongLength { expected: 17, received: 8 }), "{error}");
    assert_eq!(error.kind(), Kind::Invalid);
    let mut aborted = store.begin().unwrap();
    aborted.write(b"half").unwrap();
    drop(aborted);
    assert!(names(&folder.path().join("components")).is_empty());
}

#[test]
fn leftovers_of_a_crash_are_removed_at_the_next_start() {
    let (folder, store) = real();
    std::mem::forget(store.begin().unwrap());
    assert_eq!(names(&folder.path().join("components")).len(), 1);
    ArtifactStore::open(folder.path(), Arc::new(RealDisk), [7; 32]).unwrap();
    assert!(names(&folder.path().join("components")).is_empty());
}

#[test]
fn a_damaged_component_is_not_read() {
    let (folder, store) = real();
    let digest = Digest::of(b"component");
    store.put(digest, b"component").unwrap();
    let path = folder.path().join(format!("components/{}.wasm", digest.hex()));
    fs::write(path, b"componemt").unwrap();
    assert_eq!(store.read(digest).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_compiled_artifact_is_offered_only_as_it_was_written() {
    let (folder, store) = real();
    let digest = Digest::of(b"component");
    assert_eq!(store.compiled_path("e1", digest).unwrap(), None);
    store.put_compiled("e1", digest, b"machine code").unwrap();
    let path = store.compiled_path("e1", digest).unwrap().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"machine code");

    let again = ArtifactStore::open(folder.path(), Arc::new(RealDisk), [7; 32]).unwrap();
    assert_eq!(again.compiled_path("e1", digest).unwrap(), Some(path.clone()));
    assert_eq!(again.list_compiled("e1").unwrap(), [digest]);

    fs::write(&path, b"machine c0de").unwrap();
    let again = ArtifactStore::open(folder.path(), Arc::new(RealDisk), [7; 32]).unwrap();
    assert_eq!(again.compiled_path("e1", digest).unwrap(), None);
    assert!(!path.exists());
}

#[test]
fn what_was_compiled_elsewhere_or_for_another_component_is_not_mapped() {
    let (folder, store) = real();
    let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
    store.put_compiled("e1", one, b"code of one").unwrap();
    store.put_compiled("e1", two, b"code of two").unwrap();
    let of = |digest: Digest, end: &str| {
        folder.path().join("compiled/e1").join(format!("{}.{end}", digest.hex()))
    };
    // Both files of one under the names of the other: each fits the seal beside it.
    for end in ["cwasm", "sum"] {
        fs::copy(of(one, end), of(two, end)).unwrap();
    }
    let again = ArtifactStore::open(folder.path(), Arc::new(RealDisk), [9; 32]).unwrap();
    assert_eq!(again.compiled_path("e1", two).unwrap(), None);
    assert!(again.compiled_path("e1", one).unwrap().is_some());
    // Another node's folder: the same files and another key.
    fs::write(folder.path().join("compiled.key"), [8; 32]).unwrap();
    let other = ArtifactStore::open(folder.path(), Arc::new(RealDisk), [9; 32]).unwrap();
    assert_eq!(other.compiled_path("e1", one).unwrap(), None);
}

#[test]
fn other_engines_files_are_removed_and_engine_keys_stay_in_their_folder() {
    let (folder, store) = real();
    let digest = Digest::of(b"component");
    store.put_compiled("old", digest, b"1").unwrap();
    store.put_compiled("new", digest, b"2").unwrap();
    store.remove_other_engines("new").unwrap();
    assert_eq!(names(&folder.path().join("compiled")), ["new"]);
    for bad in ["", "..", "../up", "a/b", ".hidden", &"x".repeat(129)] {
        assert!(matches!(store.compiled_path(bad, digest), Err(Error::BadEngineKey { .. })));
    }
}

#[test]
fn a_component_that_was_committed_survives_every_power_cut() {
    for seed in 0..50 {
        let disk = FaultyDisk::new();
        let store = ArtifactStore::open(Path::new("/a"), Arc::new(disk.clone()), [7; 32]).unwrap();
        let held = Digest::of(b"held");
        store.put(held, b"held").unwrap();
        let mut torn = store.begin().unwrap();
        torn.write(&[7; 5000]).unwrap();
        disk.cut_power(seed);
        drop(torn);
        let store =
            ArtifactStore::open(Path::new("/a"), Arc::new(disk.power_on()), [7; 32]).unwrap();
        assert_eq!(store.read(held).unwrap(), b"held");
        assert_eq!(store.list().unwrap(), [held], "seed {seed}");
    }
}

#[test]
fn a_disk_that_fails_or_is_full_leaves_nothing_under_the_final_name() {
    let digest = Digest::of(&[1; 9000]);
    for op in [Op::Create, Op::Write, Op::Sync, Op::Rename] {
        let disk = FaultyDisk::new();
        let store = ArtifactStore::open(Path::new("/a"), Arc::new(disk.clone()), [7; 32]).unwrap();
        disk.fail(op, 1, libc::EIO);
        assert_eq!(store.put(digest, &[1; 9000]).unwrap_err().kind(), Kind::Unavailable, "{op:?}");
        assert!(!store.has(digest).unwrap(), "{op:?}");
        disk.limit(5000);
        assert_eq!(store.put(digest, &[1; 9000]).unwrap_err().kind(), Kind::Exhausted);
        disk.heal();
        store.put(digest, &[1; 9000]).unwrap();
        assert_eq!(store.list().unwrap(), [digest]);
    }
}

#[test]
fn what_comes_from_elsewhere_is_kept_whole_with_its_attestation_or_not_at_all() {
    let (folder, store) = real();
    let digest = Digest::of(b"component");
    let (code, other): (&[u8], &[u8]) = (b"machine code", b"machine cede");
    let arrive = |bytes: &[u8]| {
        let mut writer = store.begin_compiled("e1").unwrap();
        bytes.chunks(5).for_each(|piece| writer.write(piece).unwrap());
        let attestation = b"who made it".as_slice();
        let attested = Attested { content: Digest::of(code), bytes: 12, attestation };
        store.commit_compiled("e1", digest, writer, attested)
    };
    assert!(matches!(arrive(other), Err(Error::WrongDigest { .. })));
    assert!(matches!(arrive(b"short"), Err(Error::WrongLength { expected: 12, received: 5 })));
    drop(store.begin_compiled("e1").unwrap());
    assert_eq!(names(&folder.path().join("compiled/e1")), Vec::<String>::new());

    arrive(code).unwrap();
    assert_eq!(store.attestation("e1", digest).unwrap().as_deref(), Some(&b"who made it"[..]));
    let again = ArtifactStore::open(folder.path(), Arc::new(RealDisk), [9; 32]).unwrap();
    let path = again.compiled_path("e1", digest).unwrap().unwrap();
    assert_eq!(fs::read(&path).unwrap(), code);
    let mut reader = again.open_compiled("e1", digest, Digest::of(code)).unwrap();
    assert_eq!(reader.next(100).unwrap().as_deref(), Some(code));
    assert_eq!(reader.next(100).unwrap(), None);

    // Compiled here by now: what was said of the other bytes is not said of these.
    again.put_compiled("e1", digest, other).unwrap();
    assert_eq!(again.attestation("e1", digest).unwrap(), None);
    let late = again.put_attestation("e1", digest, Digest::of(code), b"late");
    assert!(matches!(late, Err(Error::NoSuchArtifact { .. })), "{late:?}");
    again.put_attestation("e1", digest, Digest::of(other), b"ours").unwrap();
    assert_eq!(again.attestation("e1", digest).unwrap().as_deref(), Some(&b"ours"[..]));
    again.remove_compiled("e1", digest).unwrap();
    assert_eq!(names(&folder.path().join("compiled/e1")), Vec::<String>::new());
}

#[test]
fn a_compiled_file_that_changes_on_disk_is_not_sent_to_its_end() {
    let (_folder, store) = real();
    let digest = Digest::of(b"component");
    let content = store.put_compiled("e1", digest, b"machine code").unwrap();
    let path = store.compiled_path("e1", digest).unwrap().unwrap();
    fs::write(&path, b"machine cede").unwrap();
    let mut reader = store.open_compiled("e1", digest, content).unwrap();
    assert!(reader.next(100).unwrap().is_some());
    assert!(matches!(reader.next(100), Err(Error::Corrupt { .. })));
}
