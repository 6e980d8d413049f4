//! The settings of `nigh node`: from flags, environment and file to a checked configuration.

mod file;
mod https;
mod values;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nigh_model::{NodeName, Region, Zone};
use nigh_node::{CERTIFICATE_LIFE, Config};
use nigh_placement::geo::known_region;

use crate::failure::{Failure, Result};
use crate::logging::LogFormat;
use crate::rtt;
use https::HttpsFlags;
use values::{
    address, advertised, bounded, certificate_life, join_token, loaded_memory, location, loopback,
    named, replace_after, required, start, without_scheme,
};

/// Guest instances at once unless something else is said.
const SLOTS_DEFAULT: u32 = 1_000;
/// Most slots and threads: beyond it a number is a mistake.
const SLOTS_MAX: u32 = 25_000;
const THREADS_MAX: u32 = 1_024;
/// The word for no emulated delay, for where a setting cannot be left out.
const RTT_NONE: &str = "none";

/// Settings as flags and environment give them; the file has the same.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub(crate) struct Flags {
    /// Name of the node, unique in its cluster
    #[arg(long, env = "NIGH_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Region: nodes of one region are near each other
    #[arg(long, env = "NIGH_REGION", value_name = "REGION")]
    region: Option<String>,
    /// Zone: nodes of one zone fail together
    #[arg(long, env = "NIGH_ZONE", value_name = "ZONE")]
    zone: Option<String>,
    /// Where it stands, in degrees [default: of the region, where that is known]
    #[arg(long, env = "NIGH_LOCATION", value_name = "LAT,LON", allow_hyphen_values = true)]
    location: Option<String>,
    /// Data folder
    #[arg(long, env = "NIGH_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen for HTTP calls [default: 127.0.0.1:8080]
    #[arg(long, env = "NIGH_HTTP", value_name = "ADDRESS")]
    http: Option<String>,
    /// Where to listen for HTTPS calls [default: 127.0.0.1:8443 with certificates, else nowhere]
    #[arg(long, env = "NIGH_HTTPS", value_name = "ADDRESS")]
    https: Option<String>,
    /// Certificates for HTTPS: NAME.crt and NAME.key, or NAME/fullchain.pem and NAME/privkey.pem
    #[arg(long, env = "NIGH_HTTPS_CERTIFICATES", value_name = "DIR")]
    https_certificates: Option<PathBuf>,
    /// Serve HTTPS with a certificate that the node signs itself, in its data folder
    #[arg(long, env = "NIGH_HTTPS_SELF_SIGNED", num_args = 0..=1, default_missing_value = "true")]
    #[arg(require_equals = true, value_name = "true|false")]
    https_self_signed: Option<bool>,
    /// Redirect HTTP calls that name a host to HTTPS, on the port of --https or on this one
    #[arg(long, env = "NIGH_HTTPS_REDIRECT", num_args = 0..=1, default_missing_value = "true")]
    #[arg(require_equals = true, value_name = "true|false|PORT")]
    https_redirect: Option<String>,
    /// Where to listen for the gRPC API [default: 127.0.0.1:7400]
    #[arg(long, env = "NIGH_API", value_name = "ADDRESS")]
    api: Option<String>,
    /// Where to listen for other nodes [default: 127.0.0.1:7401]
    #[arg(long, env = "NIGH_PEER", value_name = "ADDRESS")]
    peer: Option<String>,
    /// Where to listen for gossip datagrams [default: 127.0.0.1:7402]
    #[arg(long, env = "NIGH_GOSSIP", value_name = "ADDRESS")]
    gossip: Option<String>,
    /// Where to serve metrics without TLS and tokens: a loopback address [default: on the API alone]
    #[arg(long, env = "NIGH_METRICS", value_name = "ADDRESS")]
    metrics: Option<String>,
    /// Hosts by which others reach the node, one per network, the main one first [default: the
    /// address listened on]
    #[arg(long, env = "NIGH_ADVERTISE", value_name = "HOST,…", value_delimiter = ',')]
    advertise: Option<Vec<String>>,
    /// Round trips between regions to emulate: a CSV file, or aws for measured ones [default: none]
    #[arg(long, env = "NIGH_RTT_MATRIX", value_name = "FILE|aws|none")]
    rtt_matrix: Option<PathBuf>,
    /// Begin a new cluster: once, on one node
    #[arg(long, env = "NIGH_BOOTSTRAP", num_args = 0..=1, default_missing_value = "true")]
    #[arg(require_equals = true, value_name = "true|false")]
    bootstrap: Option<bool>,
    /// Join the cluster of these peer addresses
    #[arg(long, env = "NIGH_JOIN", value_name = "HOST:PORT,…", value_delimiter = ',')]
    join: Option<Vec<String>>,
    /// Token that admits the node, or @FILE that holds it; not needed on data of the cluster
    #[arg(long, env = "NIGH_JOIN_TOKEN", value_name = "TOKEN|@FILE", hide_env_values = true)]
    join_token: Option<String>,
    /// With --bootstrap: write a token by which any number of nodes may join
    #[arg(long, env = "NIGH_WRITE_JOIN_TOKEN", value_name = "FILE")]
    write_join_token: Option<PathBuf>,
    /// File of random bytes, outside the data folder, that seals the authority's key
    #[arg(long, env = "NIGH_IDENTITY_KEY", value_name = "FILE")]
    identity_key: Option<PathBuf>,
    /// How long the certificates live that this node signs [default: 30d]
    #[arg(long, env = "NIGH_CERTIFICATE_LIFE", value_name = "DURATION")]
    certificate_life: Option<String>,
    /// A node that is dead for this long loses its work and its vote to others, while this node
    /// leads [default: 15s]
    #[arg(long, env = "NIGH_REPLACE_AFTER", value_name = "DURATION")]
    replace_after: Option<String>,
    /// Guest instances at once [default: 1000]
    #[arg(long, env = "NIGH_SLOTS", value_name = "N")]
    slots: Option<u32>,
    /// Threads that run guests [default: one per core]
    #[arg(long, env = "NIGH_GUEST_THREADS", value_name = "N")]
    guest_threads: Option<u32>,
    /// Compilations at once [default: half the cores]
    #[arg(long, env = "NIGH_COMPILE_THREADS", value_name = "N")]
    compile_threads: Option<u32>,
    /// Memory for loaded functions: beyond it those go that are used least for what they take
    /// [default: 256MiB]
    #[arg(long, env = "NIGH_LOADED_MEMORY", value_name = "SIZE")]
    loaded_memory: Option<String>,
    /// How events are written to stderr [default: text]
    #[arg(long, env = "NIGH_LOG_FORMAT", value_enum, value_name = "text|json")]
    #[arg(hide_possible_values = true)]
    log_format: Option<LogFormat>,
}

/// Settings from all their sources.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings(Flags);

impl Settings {
    /// Flags and environment first, then the file.
    pub(crate) fn collect(flags: Flags, file: Option<&Path>) -> Result<Self> {
        let from_file = file.map(file::read).transpose()?.unwrap_or_default();
        Ok(Self(flags.or(from_file)))
    }

    /// How events are written.
    pub(crate) fn log_format(&self) -> LogFormat {
        self.0.log_format.unwrap_or_default()
    }

    /// Checks everything that can be checked before a socket opens.
    pub(crate) fn validate(self) -> Result<Config> {
        let Self(flags) = self;
        let name = named("name", "NAME", required("name", flags.name)?, NodeName::new)?;
        let region = named("region", "REGION", required("region", flags.region)?, Region::new)?;
        let zone = flags.zone.map(|zone| named("zone", "ZONE", zone, Zone::new)).transpose()?;
        let location = match flags.location {
            Some(text) => Some(location(&text)?),
            None => known_region(region.as_str()).map(|known| known.location),
        };
        let peer = address("peer", flags.peer, 7401)?;
        let gossip = address("gossip", flags.gossip, 7402)?;
        let http = address("http", flags.http, 8080)?;
        let api = address("api", flags.api.map(without_scheme), 7400)?;
        let data = required("data", flags.data)?;
        let https = HttpsFlags {
            listen: flags.https,
            certificates: flags.https_certificates,
            self_signed: flags.https_self_signed.unwrap_or(false),
            redirect: flags.https_redirect,
        };
        let https = https.validate(&data)?;
        let metrics = flags.metrics.map(loopback).transpose()?;
        if flags.advertise.is_none() {
            for (what, listen) in [("peer", peer), ("gossip", gossip)] {
                if listen.ip().is_unspecified() {
                    return Err(Failure::usage(format!("others cannot reach --{what} {listen}"))
                        .why("it is every address of this machine and none of them")
                        .hint("name the host by which they do: --advertise HOST"));
                }
            }
        }
        let advertise = advertised(flags.advertise.unwrap_or_default())?;
        let rtt = match flags.rtt_matrix {
            None => None,
            Some(path) if path.as_os_str() == RTT_NONE => None,
            Some(path) => {
                let matrix = rtt::read(&path, "--rtt-matrix")?;
                rtt::check(&matrix, [&region])?;
                Some(Arc::new(matrix))
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = |what: &str, given: Option<u32>, default: usize| match given {
            None => Ok(default),
            Some(number) => bounded(what, number, THREADS_MAX).map(|number| number as usize),
        };
        Ok(Config {
            name,
            region,
            zone,
            location,
            data,
            http,
            https,
            api,
            peer,
            gossip,
            metrics,
            advertise,
            start: start(flags.bootstrap.unwrap_or(false), flags.join.unwrap_or_default())?,
            join_token: flags.join_token.map(|given| join_token(&given)).transpose()?,
            write_join_token: flags.write_join_token,
            identity_key: flags.identity_key,
            certificate_life: flags
                .certificate_life
                .map_or(Ok(CERTIFICATE_LIFE), |given| certificate_life(&given))?,
            rtt,
            replace_after: replace_after(flags.replace_after.as_deref())?,
            slots: bounded("slots", flags.slots.unwrap_or(SLOTS_DEFAULT), SLOTS_MAX)?,
            guest_threads: threads("guest-threads", flags.guest_threads, cores)?,
            compile_threads: threads("compile-threads", flags.compile_threads, cores.div_ceil(2))?,
            loaded_bytes_max: loaded_memory(flags.loaded_memory.as_deref())?,
        })
    }
}

impl Flags {
    /// These, and where they say nothing, those. To begin and to join are one setting: a flag
    /// for one of them puts the file's other one aside.
    fn or(self, file: Self) -> Self {
        let begun = self.bootstrap == Some(true) || self.join.is_some();
        Self {
            name: self.name.or(file.name),
            region: self.region.or(file.region),
            zone: self.zone.or(file.zone),
            location: self.location.or(file.location),
            data: self.data.or(file.data),
            http: self.http.or(file.http),
            https: self.https.or(file.https),
            https_certificates: self.https_certificates.or(file.https_certificates),
            https_self_signed: self.https_self_signed.or(file.https_self_signed),
            https_redirect: self.https_redirect.or(file.https_redirect),
            api: self.api.or(file.api),
            peer: self.peer.or(file.peer),
            gossip: self.gossip.or(file.gossip),
            metrics: self.metrics.or(file.metrics),
            advertise: self.advertise.or(file.advertise),
            rtt_matrix: self.rtt_matrix.or(file.rtt_matrix),
            bootstrap: self.bootstrap.or(if begun { None } else { file.bootstrap }),
            join: self.join.or(if begun { None } else { file.join }),
            join_token: self.join_token.or(file.join_token),
            write_join_token: self.write_join_token.or(file.write_join_token),
            identity_key: self.identity_key.or(file.identity_key),
            certificate_life: self.certificate_life.or(file.certificate_life),
            replace_after: self.replace_after.or(file.replace_after),
            slots: self.slots.or(file.slots),
            guest_threads: self.guest_threads.or(file.guest_threads),
            compile_threads: self.compile_threads.or(file.compile_threads),
            loaded_memory: self.loaded_memory.or(file.loaded_memory),
            log_format: self.log_format.or(file.log_format),
        }
    }
}

#[cfg(test)]
mod tests {
    use nigh_node::{LOADED_BYTES_MAX, Start};

    use super::values::ADVERTISE_MAX;
    use super::*;

    fn flags() -> Flags {
        Flags {
            name: Some("a".into()),
            region: Some("eu-west-1".into()),
            data: Some("data".into()),
            ..Flags::default()
        }
    }

    fn said(change: impl Fn(&mut Flags)) -> String {
        let mut flags = flags();
        change(&mut flags);
        let failure = Settings(flags).validate().unwrap_err();
        assert!(matches!(failure.exit(), 2..=4), "{failure}");
        failure.to_string()
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let config = Settings(flags()).validate().unwrap();
        assert_eq!(config.start, Start::Resume);
        assert_eq!(config.http.to_string(), "127.0.0.1:8080");
        assert_eq!(config.gossip.port(), 7402);
        assert_eq!(config.slots, SLOTS_DEFAULT);
        assert_eq!(config.loaded_bytes_max, LOADED_BYTES_MAX);
        assert!(config.location.is_some(), "eu-west-1 is known");
    }

    #[test]
    fn delays_are_emulated_by_the_embedded_matrix_or_not_at_all() {
        for (word, emulated) in [("aws", true), ("none", false)] {
            let flags = Flags { rtt_matrix: Some(word.into()), ..flags() };
            assert_eq!(Settings(flags).validate().unwrap().rtt.is_some(), emulated);
        }
        let lacks = |flags: &mut Flags| {
            flags.region = Some("here".into());
            flags.rtt_matrix = Some("aws".into());
        };
        assert!(said(lacks).contains("`here` is not in the matrix"));
    }

    #[test]
    fn https_is_served_where_there_is_a_certificate() {
        let https = |change: fn(&mut Flags)| {
            let mut flags = flags();
            change(&mut flags);
            Settings(flags).validate().unwrap().https
        };
        assert_eq!(https(|_| ()), None);
        let own = https(|flags| flags.https_self_signed = Some(true)).unwrap();
        assert_eq!((own.listen.to_string().as_str(), own.self_made), ("127.0.0.1:8443", true));
        assert_eq!((own.certificates.to_str(), own.redirect), (Some("data/https"), None));
        for (given, redirect) in [("true", Some(443)), ("8443", Some(8443)), ("false", None)] {
            let mut flags = flags();
            flags.https = Some("0.0.0.0:443".into());
            flags.https_certificates = Some("certificates".into());
            flags.https_redirect = Some(given.into());
            let https = Settings(flags).validate().unwrap().https.unwrap();
            assert_eq!((https.redirect, https.self_made), (redirect, false), "{given}");
        }
        for change in
            [(|flags| flags.https = Some("0.0.0.0:8443".into())) as fn(&mut Flags), |flags| {
                flags.https_redirect = Some("true".into())
            }]
        {
            assert!(said(change).contains("--https-certificates DIR"));
        }
        let both = said(|flags| {
            flags.https_self_signed = Some(true);
            flags.https_certificates = Some("certificates".into());
        });
        assert!(both.contains("two ways"), "{both}");
        let no_port = said(|flags| {
            flags.https_self_signed = Some(true);
            flags.https_redirect = Some("0".into());
        });
        assert!(no_port.contains("`0` is no port"), "{no_port}");
    }

    #[test]
    fn a_file_may_name_the_port_of_the_redirect_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        for (text, redirect) in [("true", Some(8443)), ("443", Some(443)), ("false", None)] {
            let text = format!("https_self_signed = true\nhttps_redirect = {text}");
            std::fs::write(&path, text).unwrap();
            let config = Settings::collect(flags(), Some(&path)).unwrap().validate().unwrap();
            assert_eq!(config.https.unwrap().redirect, redirect);
        }
        std::fs::write(&path, "https_redirect = \"yes\"").unwrap();
        let said = Settings::collect(flags(), Some(&path)).unwrap_err().to_string();
        assert!(said.contains("true, false, or a port"), "{said}");
    }

    #[test]
    fn the_url_that_other_commands_take_is_an_address_too() {
        for api in ["10.0.0.1:7400", "https://10.0.0.1:7400", "http://10.0.0.1:7400/"] {
            let flags = Flags { api: Some(api.into()), ..flags() };
            assert_eq!(Settings(flags).validate().unwrap().api.to_string(), "10.0.0.1:7400");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        let file = "name = \"file\"\nregion = \"us-east-1\"\nbootstrap = true\nslots = 7\nlog_format = \"json\"\n\
                    peer = \"10.0.0.1:7401\"\nloaded_memory = \"1GiB\"";
        std::fs::write(&path, file).unwrap();
        let flags = Flags { join: Some(vec!["b:7401".into()]), ..flags() };
        let text = Flags { log_format: Some(LogFormat::Text), ..flags.clone() };
        let of = |flags| Settings::collect(flags, Some(&path)).unwrap();
        assert_eq!(of(flags.clone()).log_format(), LogFormat::Json);
        assert_eq!(of(text).log_format(), LogFormat::Text);
        let config = of(flags).validate().unwrap();
        assert_eq!((config.name.as_str(), config.region.as_str()), ("a", "eu-west-1"));
        assert_eq!(config.start, Start::Join(vec!["b:7401".into()]));
        assert_eq!((config.slots, config.peer.to_string().as_str()), (7, "10.0.0.1:7401"));
        assert_eq!(config.loaded_bytes_max, 1 << 30);
    }

    #[test]
    fn a_node_may_have_a_host_in_each_of_its_networks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        for (text, hosts) in [
            ("advertise = \"a\"", vec!["a"]),
            ("advertise = [\"a\", \"10.0.0.1\"]", vec!["a", "10.0.0.1"]),
        ] {
            std::fs::write(&path, text).unwrap();
            let config = Settings::collect(flags(), Some(&path)).unwrap().validate().unwrap();
            assert_eq!(config.advertise, hosts);
        }
        let many = vec!["a".to_owned(); ADVERTISE_MAX + 1];
        assert!(said(|flags| flags.advertise = Some(many.clone())).contains("at most 4"));
    }

    #[test]
    fn the_file_is_refused_with_the_nearest_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        for (text, expected) in [
            ("regoin = \"a\"", "did you mean `region`?"),
            ("name = 1", "`name` is not valid"),
            ("join = \"a:1\"", "list"),
            ("bootstrap = \"yes\"", "true or false"),
            ("name = ", "line 1 is not TOML"),
            ("log_format = \"xml\"", "`xml` is none of text, json"),
        ] {
            std::fs::write(&path, text).unwrap();
            let said = Settings::collect(flags(), Some(&path)).unwrap_err().to_string();
            assert!(said.contains(expected) && said.contains("node.toml"), "{said}");
        }
    }

    #[test]
    fn everything_is_checked_before_a_socket_opens() {
        assert!(said(|flags| flags.name = None).contains("NIGH_NAME"));
        assert!(said(|flags| flags.region = Some("EU West".into())).contains("`EU West`"));
        assert!(said(|flags| flags.http = Some("8080".into())).contains("--http"));
        let said_of_api = said(|flags| flags.api = Some("http://node-1:7400".into()));
        assert!(said_of_api.contains("--api or NIGH_API: `http://node-1:7400`"), "{said_of_api}");
        assert!(said(|flags| flags.location = Some("91,0".into())).contains("--location"));
        assert!(said(|flags| flags.peer = Some("0.0.0.0:7401".into())).contains("--advertise"));
        let said_of_metrics = said(|flags| flags.metrics = Some("0.0.0.0:9464".into()));
        assert!(said_of_metrics.contains("loopback"), "{said_of_metrics}");
        assert!(
            said(|flags| flags.advertise = Some(vec!["a:7401".into()])).contains("without a port")
        );
        assert!(said(|flags| flags.join = Some(vec!["a".into()])).contains("HOST:PORT"));
        assert!(said(|flags| flags.slots = Some(0)).contains("--slots"));
        for duration in ["1s", "48h", "soon"] {
            let said = said(|flags| flags.replace_after = Some(duration.into()));
            assert!(said.contains("--replace-after"), "{said}");
        }
        for size in ["1MiB", "much"] {
            let said = said(|flags| flags.loaded_memory = Some(size.into()));
            assert!(said.contains("--loaded-memory"), "{said}");
        }
        assert!(said(|flags| flags.rtt_matrix = Some("none.csv".into())).contains("none.csv"));
        let both = said(|flags| {
            flags.bootstrap = Some(true);
            flags.join = Some(vec!["a:1".into()]);
        });
        assert!(both.contains("both"), "{both}");
    }
}
