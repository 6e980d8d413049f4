//! Telling the service manager how far the node is: `sd_notify(3)`, by hand.
//!
//! systemd names a datagram socket in `NOTIFY_SOCKET`; with `Type=notify` a unit counts as started
//! when `READY=1` comes there. Where nobody asks, nothing is said. A message that cannot be sent is
//! no reason for a node to stop: the manager has its own time limits.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where the manager listens.
const SOCKET: &str = "NOTIFY_SOCKET";

/// What a manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The node serves.
    Ready,
    /// It was asked to stop and does.
    Stopping,
}

impl State {
    fn message(self) -> &'static [u8] {
        match self {
            Self::Ready => b"READY=1",
            Self::Stopping => b"STOPPING=1",
        }
    }
}

/// Tells the service manager, where there is one.
pub(crate) fn tell(state: State) {
    let socket = std::env::var_os(SOCKET).filter(|socket| !socket.is_empty());
    if let Some(error) = socket.and_then(|socket: OsString| send(&socket, state).err()) {
        tracing::warn!(%error, ?state, "the service manager is not told");
    }
}

fn send(socket: &OsStr, state: State) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that does not read must not hold the node up.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.message(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn received(socket: &UnixDatagram) -> Vec<u8> {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 64];
        let read = socket.recv(&mut buffer).unwrap();
        buffer[..read].to_vec()
    }

    #[test]
    fn a_manager_hears_by_a_path_or_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), State::Ready).unwrap();
        assert_eq!(received(&manager), b"READY=1");

        let name = format!("nigh-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), State::Stopping).unwrap();
        assert_eq!(received(&manager), b"STOPPING=1");
    }

    #[test]
    fn a_manager_that_is_gone_is_an_error_and_no_panic() {
        assert!(send(OsStr::new("/nowhere/notify"), State::Ready).is_err());
        assert!(send(OsStr::new(""), State::Ready).is_err());
    }
}
