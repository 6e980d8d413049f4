//! The certificates that callers are shown, by the host that they name; read again when files change.
//!
//! A file that was just changed is read at the next look if it is still the same: tools write a
//! certificate and its key one after the other. What cannot be used does not take the place of what
//! could.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use super::folder::{self, Pair, Stamp};
use super::pair::{self, Certificate};
use super::{BadPair, HttpsError};
use crate::clock;

/// How often the files are looked at: a new certificate is served after two looks.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What callers are shown. It is asked in every handshake, without a lock.
#[derive(Debug)]
pub(crate) struct Certificates {
    table: ArcSwap<Table>,
}

/// The certificates of one moment.
#[derive(Debug, Default)]
struct Table {
    by_host: BTreeMap<String, Arc<Certificate>>,
    /// For who names no host, or one of no other certificate.
    default: Option<Arc<Certificate>>,
    counts: Counts,
}

/// How many there are, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// That can be shown.
    pub(crate) usable: usize,
    /// Whose files cannot be used as they are now.
    pub(crate) refused: usize,
    /// When the first of them ends, in ms since the Unix epoch.
    pub(crate) first_end_ms: Option<u64>,
}

impl Certificates {
    /// Reads a folder. What cannot be used is said and left out, as long as there is something that
    /// can.
    ///
    /// # Errors
    /// There is nothing that can be used.
    pub(crate) fn open(folder: PathBuf) -> Result<(Arc<Self>, Reader), HttpsError> {
        let (reader, table) = Reader::open(folder, clock::now_ms())?;
        Ok((Arc::new(Self { table: ArcSwap::from_pointee(table) }), reader))
    }

    /// Reads again what changes, until it is stopped.
    pub(crate) async fn keep_reading(
        self: Arc<Self>,
        mut reader: Reader,
        interval: Duration,
        stop: CancellationToken,
    ) {
        while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            let looked = tokio::task::spawn_blocking(move || {
                let table = reader.look(clock::now_ms());
                (reader, table)
            });
            let Ok((kept, table)) = looked.await else { return };
            reader = kept;
            if let Some(table) = table {
                self.table.store(Arc::new(table));
            }
        }
    }

    /// How many there are.
    pub(crate) fn counts(&self) -> Counts {
        self.table.load().counts
    }

    /// The one for a host, or the default one.
    fn find(&self, host: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        let of_host = host.and_then(|host| table.of_host(&host.to_ascii_lowercase()));
        of_host.or(table.default.as_ref()).map(|found| Arc::clone(&found.key))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
    }
}

impl Table {
    /// Of several for one host, the one that holds longest.
    fn new<'k>(known: impl Iterator<Item = &'k Known>) -> Self {
        let mut table = Self::default();
        for known in known {
            table.counts.refused += usize::from(known.refused);
            let Some(certificate) = &known.usable else { continue };
            table.counts.usable += 1;
            let first = table.counts.first_end_ms.get_or_insert(certificate.ends_ms);
            *first = certificate.ends_ms.min(*first);
            table.default.get_or_insert_with(|| Arc::clone(certificate));
            for host in &certificate.hosts {
                let place = table.by_host.entry(host.clone());
                let place = place.or_insert_with(|| Arc::clone(certificate));
                if place.ends_ms < certificate.ends_ms {
                    *place = Arc::clone(certificate);
                }
            }
        }
        table
    }

    fn of_host(&self, host: &str) -> Option<&Arc<Certificate>> {
        self.by_host.get(host).or_else(|| {
            let (_, parent) = host.split_once('.')?;
            self.by_host.get(&format!("*.{parent}"))
        })
    }
}

/// What is known of one pair.
#[derive(Debug)]
struct Known {
    stamp: Stamp,
    /// What was read last that can be used.
    usable: Option<Arc<Certificate>>,
    /// The files as they are now cannot be.
    refused: bool,
    /// It was said that it does not hold now.
    said: bool,
}

/// Looks at a folder again and again.
#[derive(Debug)]
pub(crate) struct Reader {
    folder: PathBuf,
    /// In the order of the folder: the default one first.
    known: BTreeMap<(bool, PathBuf), Known>,
    /// What the last look found, settled or not.
    seen: BTreeMap<PathBuf, Stamp>,
    /// What was said of the folder itself.
    said: Option<String>,
}

impl Reader {
    fn open(folder: PathBuf, now_ms: u64) -> Result<(Self, Table), HttpsError> {
        let pairs = folder::pairs(&folder)?;
        let mut this = Self { folder, known: BTreeMap::new(), seen: BTreeMap::new(), said: None };
        let mut first_bad = None;
        for pair in &pairs {
            this.seen.insert(pair.certificate.clone(), pair.stamp());
        }
        for pair in &pairs {
            if let Some(bad) = this.read(pair, pair.stamp()) {
                first_bad.get_or_insert(bad);
            }
        }
        let table = this.table(now_ms);
        if table.default.is_none() {
            return Err(first_bad.map_or(HttpsError::Empty(this.folder), HttpsError::Pair));
        }
        Ok((this, table))
    }

    /// Looks once; answers what callers shall be shown from now on, if that is something else.
    fn look(&mut self, now_ms: u64) -> Option<Table> {
        let pairs = match folder::pairs(&self.folder) {
            Ok(pairs) => pairs,
            Err(error) => {
                let why = error.to_string();
                if self.said.as_ref() != Some(&why) {
                    tracing::warn!(%why, "certificates of callers are not looked at; the old ones stay");
                    self.said = Some(why);
                }
                return None;
            }
        };
        self.said = None;
        let found: BTreeMap<_, _> =
            pairs.iter().map(|pair| (pair.certificate.clone(), pair.stamp())).collect();
        let mut changed = self.forget(&found);
        for pair in &pairs {
            let stamp = found[&pair.certificate];
            let settled = self.seen.get(&pair.certificate) == Some(&stamp);
            let known = self.known.get(&key(pair)).is_some_and(|known| known.stamp == stamp);
            if settled && !known {
                self.read(pair, stamp);
                changed = true;
            }
        }
        self.seen = found;
        self.say_what_does_not_hold(now_ms);
        changed.then(|| Table::new(self.known.values()))
    }

    /// Reads a pair and says how that went; what is wrong with it, if something is.
    fn read(&mut self, pair: &Pair, stamp: Stamp) -> Option<BadPair> {
        let read = pair::read(pair);
        let before = self.known.remove(&key(pair)).and_then(|known| known.usable);
        let (usable, bad) = match read {
            Ok(certificate) => {
                let hosts = certificate.hosts.join(", ");
                tracing::info!(name = %pair.name, %hosts, "a certificate of callers was read");
                (Some(Arc::new(certificate)), None)
            }
            Err(bad) => {
                let old = before.is_some();
                tracing::warn!(why = %bad, old, "a certificate of callers is not used");
                (before, Some(bad))
            }
        };
        let known = Known { stamp, usable, refused: bad.is_some(), said: false };
        self.known.insert(key(pair), known);
        bad
    }

    /// Forgets what was gone at two looks, but never all.
    fn forget(&mut self, found: &BTreeMap<PathBuf, Stamp>) -> bool {
        let is_gone = |path: &PathBuf| !found.contains_key(path) && !self.seen.contains_key(path);
        let stays =
            self.known.iter().any(|((_, path), known)| !is_gone(path) && known.usable.is_some());
        let gone: Vec<_> = self.known.keys().filter(|(_, path)| is_gone(path)).cloned().collect();
        if gone.is_empty() || !stays {
            return false;
        }
        gone.iter().for_each(|key| drop(self.known.remove(key)));
        true
    }

    fn table(&mut self, now_ms: u64) -> Table {
        self.say_what_does_not_hold(now_ms);
        Table::new(self.known.values())
    }

    /// Says of each certificate once that it has ended, or has not begun.
    fn say_what_does_not_hold(&mut self, now_ms: u64) {
        for ((_, path), known) in &mut self.known {
            let Some(certificate) = &known.usable else { continue };
            if !known.said && !certificate.holds(now_ms) {
                let ended = certificate.ends_ms <= now_ms;
                let path = path.display();
                tracing::warn!(%path, ended, "a certificate of callers does not hold now");
                known.said = true;
            }
        }
    }
}

fn key(pair: &Pair) -> (bool, PathBuf) {
    (!pair.is_default(), pair.certificate.clone())
}

#[cfg(test)]
pub(crate) mod testing {
    //! Certificates for tests.

    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::CertificateDer;

    /// A certificate that has signed itself, and its key, in PEM.
    pub(crate) struct Made {
        pub(crate) certificate: String,
        pub(crate) key: String,
        pub(crate) der: CertificateDer<'static>,
    }

    impl Made {
        /// Writes `NAME.crt` and `NAME.key`.
        pub(crate) fn put(&self, folder: &Path, name: &str) {
            std::fs::write(folder.join(format!("{name}.key")), &self.key).unwrap();
            std::fs::write(folder.join(format!("{name}.crt")), &self.certificate).unwrap();
        }
    }

    /// One for these hosts.
    pub(crate) fn made(hosts: &[&str]) -> Made {
        made_with(hosts, |_| ())
    }

    /// The same, changed.
    pub(crate) fn made_with(hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Made {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Made {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Made, made, made_with};
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    /// What a host is shown.
    fn shown(table: &Table, host: &str) -> Vec<u8> {
        let certificate = table.of_host(host).or(table.default.as_ref()).unwrap();
        certificate.key.cert[0].to_vec()
    }

    /// Looks twice: what has changed is settled then.
    fn looked(reader: &mut Reader) -> Option<Table> {
        let first = reader.look(NOW_MS);
        reader.look(NOW_MS).or(first)
    }

    #[test]
    fn a_host_is_shown_its_own_then_that_of_a_wildcard_then_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let (shop, wild, default) =
            (made(&["shop.example"]), made(&["*.example", "example"]), made(&["other.test"]));
        shop.put(path, "shop");
        wild.put(path, "a-wild");
        default.put(path, "default");
        let (_, table) = Reader::open(path.to_owned(), NOW_MS).unwrap();
        for (host, expected) in [
            ("shop.example", &shop),
            ("blog.example", &wild),
            ("example", &wild),
            ("a.shop.example", &default),
            ("nobody.test", &default),
        ] {
            assert_eq!(shown(&table, host), expected.der.to_vec(), "{host}");
        }
        assert_eq!((table.counts.usable, table.counts.refused), (3, 0));
    }

    #[test]
    fn of_two_for_one_host_the_one_that_holds_longer_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let until = |year| {
            move |params: &mut rcgen::CertificateParams| {
                params.not_after = rcgen::date_time_ymd(year, 1, 1);
            }
        };
        let (long, short) =
            (made_with(&["a.test"], until(2041)), made_with(&["a.test"], until(2040)));
        long.put(folder.path(), "b");
        short.put(folder.path(), "a");
        let (_, table) = Reader::open(folder.path().to_owned(), NOW_MS).unwrap();
        assert_eq!(shown(&table, "a.test"), long.der.to_vec());
        assert_eq!(table.counts.first_end_ms, Some(2_208_988_800_000));
    }

    #[test]
    fn a_changed_certificate_is_served_once_it_is_whole_and_a_broken_one_never() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let (old, new) = (made(&["a.test"]), made(&["a.test"]));
        old.put(path, "a");
        let (mut reader, _) = Reader::open(path.to_owned(), NOW_MS).unwrap();
        assert!(looked(&mut reader).is_none(), "nothing has changed");

        std::fs::write(path.join("a.crt"), &new.certificate).unwrap();
        assert!(reader.look(NOW_MS).is_none(), "it may be half of what is being written");
        std::fs::write(path.join("a.key"), &new.key).unwrap();
        assert!(reader.look(NOW_MS).is_none(), "it has changed again");
        assert_eq!(shown(&reader.look(NOW_MS).unwrap(), "a.test"), new.der.to_vec());

        std::fs::write(path.join("a.crt"), "broken").unwrap();
        let table = looked(&mut reader).unwrap();
        assert_eq!(shown(&table, "a.test"), new.der.to_vec(), "the old one stays");
        assert_eq!((table.counts.usable, table.counts.refused), (1, 1));
        assert!(looked(&mut reader).is_none(), "it is said once");

        old.put(path, "a");
        let table = looked(&mut reader).unwrap();
        assert_eq!(shown(&table, "a.test"), old.der.to_vec());
        assert_eq!(table.counts.refused, 0);
    }

    #[test]
    fn what_comes_and_goes_is_followed_but_there_is_always_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let (a, b) = (made(&["a.test"]), made(&["b.test"]));
        a.put(path, "a");
        let (mut reader, table) = Reader::open(path.to_owned(), NOW_MS).unwrap();
        assert_eq!(shown(&table, "b.test"), a.der.to_vec());
        b.put(path, "b");
        assert_eq!(shown(&looked(&mut reader).unwrap(), "b.test"), b.der.to_vec());
        std::fs::remove_file(path.join("a.crt")).unwrap();
        assert_eq!(shown(&looked(&mut reader).unwrap(), "a.test"), b.der.to_vec());
        std::fs::remove_file(path.join("b.crt")).unwrap();
        assert!(looked(&mut reader).is_none(), "the last one stays");
        std::fs::remove_dir_all(path).unwrap();
        assert!(looked(&mut reader).is_none(), "also without its folder");
    }

    #[test]
    fn a_folder_of_nothing_usable_is_an_error_and_one_of_something_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let open = || Reader::open(path.to_owned(), NOW_MS);
        assert!(open().unwrap_err().to_string().contains("holds no certificate"));
        std::fs::write(path.join("a.crt"), "x").unwrap();
        assert!(open().unwrap_err().to_string().contains("a.crt cannot be used"));
        made(&["b.test"]).put(path, "b");
        let (_, table) = open().unwrap();
        assert_eq!((table.counts.usable, table.counts.refused), (1, 1));
        let nowhere = Reader::open(path.join("nowhere"), NOW_MS).unwrap_err();
        assert!(nowhere.to_string().starts_with("cannot read "), "{nowhere}");
    }

    #[test]
    fn one_that_has_ended_is_shown_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let ended: Made = made_with(&["a.test"], |params| {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        });
        ended.put(folder.path(), "a");
        let (reader, table) = Reader::open(folder.path().to_owned(), NOW_MS).unwrap();
        assert_eq!(shown(&table, "a.test"), ended.der.to_vec());
        assert!(reader.known.values().all(|known| known.said), "and that is said");
    }
}
