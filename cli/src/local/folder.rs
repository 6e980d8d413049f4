//! The data folder of a local cluster: a folder per node, and a note of which nodes they are.

use std::path::{Path, PathBuf};

use nigh_model::{Kind, NodeName, Region};
use serde::{Deserialize, Serialize};

use crate::api::Access;
use crate::credentials::{ADMIN_FILE, Credentials};
use crate::failure::{Failure, Result};
use crate::local::layout::Place;

/// The note's name, and that under which it is written.
const NOTE: &str = "cluster.json";
const NOTE_NEW: &str = "cluster.json.new";

/// The authorities of the cluster, in a node's folder.
const AUTHORITIES: &str = "identity/ca.pem";

/// Which nodes a data folder holds. Ports are not among it: they may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// In the order in which they were dealt.
    pub(crate) nodes: Vec<Noted>,
}

/// A node of a data folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Noted {
    /// Its name and that of its folder.
    pub(crate) name: NodeName,
    /// Its region.
    pub(crate) region: Region,
}

impl Note {
    /// What is noted of these places.
    fn of(places: &[Place]) -> Self {
        let noted =
            |place: &Place| Noted { name: place.name.clone(), region: place.region.clone() };
        Self { nodes: places.iter().map(noted).collect() }
    }

    /// The regions in the order in which nodes were dealt over them.
    pub(crate) fn regions(&self) -> Vec<Region> {
        let mut regions: Vec<Region> = Vec::new();
        for node in &self.nodes {
            if !regions.contains(&node.region) {
                regions.push(node.region.clone());
            }
        }
        regions
    }
}

/// A data folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A folder that need not be there yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The folder of a node.
    pub(crate) fn of_node(&self, name: &NodeName) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// Whether the node's folder belongs to a cluster already.
    pub(crate) fn holds_node(&self, name: &NodeName) -> bool {
        self.of_node(name).join(nigh_node::IDENTITY_FILE).exists()
    }

    /// The log of all nodes.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("nigh.log")
    }

    /// The ledger of the demonstration.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.path.join("demo.jsonl")
    }

    /// The certificate for callers over HTTPS, with its key.
    pub(crate) fn https(&self) -> PathBuf {
        self.path.join("https")
    }

    /// What the admin of the cluster is known by.
    pub(crate) fn admin(&self) -> PathBuf {
        self.path.join(ADMIN_FILE)
    }

    /// Puts there what the first node wrote when it began the cluster, with the addresses that the
    /// nodes have now and the authorities that they trust now.
    pub(crate) fn tell_admin(&self, places: &[Place]) -> Result<Access> {
        let file = self.admin();
        let first = self.of_node(&places[0].name);
        let begun = first.join(ADMIN_FILE);
        let source = if begun.exists() { &begun } else { &file };
        let mut credentials = Credentials::read(source)?;
        if let Ok(authorities) = std::fs::read_to_string(first.join(AUTHORITIES)) {
            credentials.ca = authorities;
        }
        credentials.api = places.iter().map(Place::api_url).collect();
        credentials.write(&file).map_err(|error| self.unusable(&error))?;
        Access::of(file, None)
    }

    /// What is noted, if the folder holds a cluster.
    pub(crate) fn note(&self) -> Result<Option<Note>> {
        let path = self.path.join(NOTE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.unusable(&error)),
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Failure::new(Kind::Corrupt, format!("{} cannot be read", path.display()))
                .why(error.to_string())
                .hint("--fresh empties the folder")
        })
    }

    /// Removes what a cluster left here, and nothing else.
    pub(crate) fn empty(&self) -> Result {
        self.remove(&self.path.join(NOTE_NEW))?;
        let nodes = match self.note() {
            Ok(Some(note)) => note.nodes.iter().map(|node| self.of_node(&node.name)).collect(),
            // A note that cannot be read still says that the folder is nigh's.
            Err(_) => self.identified().map_err(|error| self.unusable(&error))?,
            Ok(None) => {
                let is_empty = |mut dir: std::fs::ReadDir| dir.next().is_none();
                if !self.path.exists() || std::fs::read_dir(&self.path).is_ok_and(is_empty) {
                    return Ok(());
                }
                return Err(Failure::invalid(format!("{} is not emptied", self.path.display()))
                .why("it holds no cluster of `nigh up`, so what is in it is not nigh's to remove")
                .hint("name another folder with --data"));
            }
        };
        for node in nodes {
            self.remove(&node)?;
        }
        self.remove(&self.log())?;
        self.remove(&self.ledger())?;
        self.remove(&self.https())?;
        self.remove(&self.admin())?;
        self.remove(&self.path.join(NOTE))
    }

    /// The folders in this one that say of themselves that they are a node's.
    fn identified(&self) -> std::io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() && path.join(nigh_node::IDENTITY_FILE).exists() {
                folders.push(path);
            }
        }
        Ok(folders)
    }

    /// Makes the folder and notes which nodes it holds. A folder that holds others is refused.
    pub(crate) fn prepare(&self, places: &[Place]) -> Result {
        let note = Note::of(places);
        if let Some(held) = self.note()? {
            return if held == note { Ok(()) } else { Err(self.holds_other(&held)) };
        }
        std::fs::create_dir_all(&self.path).map_err(|error| self.unusable(&error))?;
        let text = serde_json::to_string_pretty(&note).expect("a note is names");
        // Under another name first: a note is there whole or not at all.
        let new = self.path.join(NOTE_NEW);
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, self.path.join(NOTE)))
            .map_err(|error| self.unusable(&error))
    }

    fn holds_other(&self, held: &Note) -> Failure {
        let regions: Vec<String> = held.regions().iter().map(ToString::to_string).collect();
        Failure::new(
            Kind::Conflict,
            format!("{} holds a cluster of other nodes", self.path.display()),
        )
        .why(format!("it was started with --nodes {} --regions {}", held.nodes.len(), regions.join(",")))
        .hint("leave --nodes and --regions out to resume it, begin anew with --fresh, or name another folder with --data")
    }

    fn remove(&self, path: &Path) -> Result {
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(self.unusable(&error))
            }
            _ => Ok(()),
        }
    }

    fn unusable(&self, error: &std::io::Error) -> Failure {
        Failure::invalid(format!("cannot use the data folder {}", self.path.display()))
            .why(error.to_string())
            .hint("name another one with --data DIR")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::layout::deal;

    fn places(nodes: u16, regions: &[&str]) -> Vec<Place> {
        let regions: Vec<Region> = regions.iter().map(|name| Region::new(name).unwrap()).collect();
        deal(nodes, &regions, None).unwrap()
    }

    #[test]
    fn a_folder_remembers_its_nodes() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new(parent.path().join("data"));
        assert_eq!(folder.note().unwrap(), None);
        folder.prepare(&places(3, &["a", "b"])).unwrap();
        folder.prepare(&places(3, &["a", "b"])).unwrap();
        let note = folder.note().unwrap().unwrap();
        assert_eq!((note.nodes.len(), note.regions().len()), (3, 2));
        let failure = folder.prepare(&places(3, &["a", "c"])).unwrap_err();
        assert_eq!(failure.exit(), 4);
        assert!(failure.to_string().contains("--nodes 3 --regions a,b"), "{failure}");
    }

    #[test]
    fn the_admin_is_told_where_all_nodes_are_now() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new(parent.path().to_owned());
        let places = places(2, &["a"]);
        assert!(folder.tell_admin(&places).is_err(), "nobody has begun a cluster");
        let first = folder.of_node(&places[0].name);
        std::fs::create_dir_all(first.join("identity")).unwrap();
        let begun = Credentials {
            api: vec!["https://elsewhere:1".into()],
            cluster: "c".into(),
            ca: "old".into(),
            token: None,
        };
        begun.write(&first.join(ADMIN_FILE)).unwrap();
        std::fs::write(first.join(AUTHORITIES), "new").unwrap();
        let access = folder.tell_admin(&places).unwrap();
        assert_eq!(access.addresses, ["https://127.0.0.1:7400", "https://127.0.0.1:7410"]);
        assert_eq!((access.file, access.credentials.ca.trim()), (folder.admin(), "new"));
        std::fs::remove_file(first.join(ADMIN_FILE)).unwrap();
        folder.tell_admin(&places).unwrap();
    }

    #[test]
    fn emptying_takes_only_what_a_cluster_left() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new(parent.path().to_owned());
        folder.empty().unwrap();
        folder.prepare(&places(1, &["a"])).unwrap();
        std::fs::create_dir(folder.path.join("a-a")).unwrap();
        std::fs::write(folder.path.join("mine.txt"), "x").unwrap();
        folder.empty().unwrap();
        assert!(!folder.path.join("a-a").exists() && folder.path.join("mine.txt").exists());
        assert_eq!(folder.empty().unwrap_err().exit(), 4, "there is something of somebody else");
    }

    #[test]
    fn emptying_finds_the_nodes_when_the_note_cannot_be_read() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new(parent.path().to_owned());
        for name in ["a-a", "mine"] {
            std::fs::create_dir(folder.path.join(name)).unwrap();
        }
        std::fs::write(folder.path.join("a-a").join(nigh_node::IDENTITY_FILE), "x").unwrap();
        std::fs::write(folder.log(), "x").unwrap();
        std::fs::write(folder.path.join(NOTE), "{\"nodes\": [").unwrap();
        assert!(folder.note().is_err());
        folder.empty().unwrap();
        let left: Vec<_> = std::fs::read_dir(&folder.path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["mine"]);
    }
}
