//! What the cluster knows its user by: a file with addresses, the cluster's CA and a token.
//!
//! Reads, writes and finds such files; it deliberately opens no connection.

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nigh_model::access::ApiToken;

use crate::failure::{Failure, Result};
use crate::section::{self, Bad, Section};

/// Where `nigh up` puts the file of its admin, and looks for it by itself.
pub(crate) const LOCAL_FOLDER: &str = ".nigh";
/// The file of the admin that began a cluster, in the data folder.
pub(crate) const ADMIN_FILE: &str = "admin.toml";
/// The file in the user's configuration.
const LOGIN_FILE: &str = "nigh/credentials.toml";
/// Largest file that is read: a few addresses and certificates are some kilobytes.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// Most addresses in a file: they are tried in turn.
pub(crate) const ADDRESSES_MAX: usize = 64;
/// Nobody but its owner may read it.
const MODE: u32 = 0o600;
/// The bits of a mode that let others in.
const OTHERS: u32 = 0o077;

/// What the cluster knows its user by. `Debug` shows no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// URLs of the API, best first; may be empty.
    pub(crate) api: Vec<String>,
    /// The cluster's id.
    pub(crate) cluster: String,
    /// The cluster's CA, as PEM: by it its nodes are known.
    pub(crate) ca: String,
    /// What is shown to them; without one only open functions can be called.
    pub(crate) token: Option<ApiToken>,
}

impl Credentials {
    /// Reads a file that nobody else may read.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mode = metadata(path)?.permissions().mode();
        if mode & OTHERS != 0 {
            let shown = path.display();
            return Err(Failure::usage(format!("others may read {shown}"))
                .why(format!("its mode is {:o}, and it holds a token", mode & 0o777))
                .hint(format!("chmod 600 {shown}")));
        }
        Self::read_any(path)
    }

    /// Reads a file, whoever else may read it.
    pub(crate) fn read_any(path: &Path) -> Result<Self> {
        let found = metadata(path)?;
        // A pipe is as good as a file, such as a shell's <(command).
        if found.is_dir() || found.len() > FILE_BYTES_MAX {
            return Err(Failure::usage(format!("{} is no credentials file", path.display())));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
        Self::parse(path, &text)
    }

    /// Reads a file's text; `file` is named in errors.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self> {
        // What cannot be parsed is not repeated: it may be a secret.
        let table = section::parse(file, text)?;
        of_file(&Section::root(&table, "a credentials file")).map_err(|bad| bad.failure(file))
    }

    /// As it stands in a file.
    pub(crate) fn text(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let api: Vec<String> = self.api.iter().map(|url| quoted(url)).collect();
        let mut text = String::from("# Whoever holds this file may do what its token permits.\n");
        text += &format!("cluster = {}\n", quoted(&self.cluster));
        text += &format!("api = [{}]\n", api.join(", "));
        if let Some(token) = &self.token {
            text += &format!("token = {}\n", quoted(&token.reveal()));
        }
        text += &format!("ca = \"\"\"\n{}\n\"\"\"\n", self.ca.trim());
        text
    }

    /// Writes a file that nobody else may read; it is there whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
        name.push(".new");
        let new = path.with_file_name(name);
        // One that was left by an end in between may have another mode.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let options = std::fs::OpenOptions::new().write(true).create_new(true).mode(MODE).clone();
        let mut file = options.open(&new)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    }
}

/// The file to use: the one that was named, else the user's own, else that of a `nigh up` here.
pub(crate) fn find(named: Option<PathBuf>) -> Result<PathBuf> {
    let own = login_file();
    let local = local_file();
    if let Some(named) = named {
        return Ok(named);
    }
    if let Some(own) = own.as_ref().filter(|path| path.exists()) {
        return Ok(own.clone());
    }
    if local.exists() {
        return Ok(local);
    }
    let mut looked: Vec<String> = own.iter().map(|path| path.display().to_string()).collect();
    looked.push(local.display().to_string());
    Err(Failure::usage("no credentials were found")
        .why(format!("--credentials and NIGH_CREDENTIALS name no file, and there is no {}", looked.join(" and no ")))
        .hint("run this in the folder of a `nigh up`, or store a file of your cluster's admin with `nigh login FILE`"))
}

/// Where `nigh login` stores a file; none when the user has no home.
pub(crate) fn login_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let config = set("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let config = config.or_else(|| Some(PathBuf::from(set("HOME")?).join(".config")));
    config.map(|config| config.join(LOGIN_FILE))
}

/// The file of a `nigh up` in this folder.
pub(crate) fn local_file() -> PathBuf {
    Path::new(LOCAL_FOLDER).join(ADMIN_FILE)
}

fn of_file(root: &Section<'_>) -> std::result::Result<Credentials, Bad> {
    root.only(&["api", "cluster", "ca", "token"])?;
    let text = |key| Ok::<_, Bad>(root.string(key)?.map(str::to_owned));
    let needed = |key| text(key)?.ok_or_else(|| root.bad(key, "it is missing"));
    let api: Vec<String> = root.strings("api")?.into_iter().map(str::to_owned).collect();
    if api.len() > ADDRESSES_MAX {
        return Err(root.bad("api", format!("at most {ADDRESSES_MAX} addresses")));
    }
    let token = root.string("token")?.map(str::parse::<ApiToken>).transpose();
    Ok(Credentials {
        api,
        cluster: needed("cluster")?,
        ca: needed("ca")?,
        token: token.map_err(|error| root.bad("token", error.to_string()))?,
    })
}

fn metadata(path: &Path) -> Result<std::fs::Metadata> {
    std::fs::metadata(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot read the credentials {}", path.display())).why(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_model::access::{Secret, TokenId};

    fn credentials() -> Credentials {
        let (id, secret) = (TokenId::from_bytes([1; 8]), Secret::from_bytes([2; 32]));
        Credentials {
            api: vec!["https://127.0.0.1:7400".into(), "https://[::1]:7410".into()],
            cluster: "0".repeat(32),
            ca: "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----".into(),
            token: Some(ApiToken { id, secret }),
        }
    }

    fn read(text: &str) -> Result<Credentials> {
        Credentials::parse(Path::new("c.toml"), text)
    }

    #[test]
    fn a_file_reads_back_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        credentials().write(&path).unwrap();
        credentials().write(&path).unwrap();
        let back = Credentials::read(&path).unwrap();
        assert_eq!(back.ca.trim(), credentials().ca);
        assert_eq!(Credentials { ca: credentials().ca, ..back }, credentials());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let failure = Credentials::read(&path).unwrap_err();
        assert_eq!(failure.exit(), 2);
        let said = failure.to_string();
        assert!(said.contains("640") && said.contains("chmod 600"), "{said}");
        Credentials::read_any(&path).unwrap();
    }

    #[test]
    fn without_a_token_there_is_still_a_ca() {
        let open = Credentials { token: None, ..credentials() };
        assert_eq!(read(&open.text()).unwrap().token, None);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_without_its_secrets() {
        let good = credentials().text();
        let secret = credentials().token.unwrap().reveal();
        for (right, wrong, said) in [
            ("cluster =", "clutser =", "did you mean `cluster`?"),
            ("ca =", "# ca =", "is not TOML"),
            ("token = \"nigh-api", "token = \"nigh-join", "`token`"),
            ("token = \"nigh-api", "token = nigh-api", "is not TOML"),
            ("api = [", "api = 7 # [", "`api`"),
        ] {
            let failure = read(&good.replacen(right, wrong, 1)).unwrap_err().to_string();
            assert!(failure.contains(said) && failure.contains("c.toml"), "{failure}");
            assert!(!failure.contains(&secret[26..]), "{failure}");
        }
        assert!(read("cluster = \"x\"").unwrap_err().to_string().contains("`ca`"));
        assert!(!format!("{:?}", credentials()).contains(&secret[26..]));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let failure = Credentials::read(Path::new("none.toml")).unwrap_err();
        assert!(failure.to_string().contains("none.toml"), "{failure}");
    }
}
