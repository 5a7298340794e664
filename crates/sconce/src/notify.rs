//! Tells systemd how far the service is (`Type=notify`), over the socket that it names.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Who wants to know; nobody, outside of systemd.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notify(Option<SocketAddr>);

impl Notify {
    /// `socket` is `$NOTIFY_SOCKET`: a path, or an abstract name behind `@`.
    pub(crate) fn new(socket: Option<&str>) -> io::Result<Self> {
        let address = match socket.map(|socket| (socket, socket.strip_prefix('@'))) {
            None => None,
            Some((_, Some(name))) => Some(abstract_name(name)?),
            Some((path, None)) => {
                Some(SocketAddr::from_pathname(OsStr::from_bytes(path.as_bytes()))?)
            }
        };
        Ok(Self(address))
    }

    /// Up to now it loads; `what` for people who ask `systemctl status`.
    pub(crate) fn status(&self, what: &str) {
        self.send(&format!("STATUS={what}"));
    }

    /// Requests are answered from now on.
    pub(crate) fn ready(&self, what: &str) {
        self.send(&format!("READY=1\nSTATUS={what}"));
    }

    /// It was asked to end and is finishing what it has begun.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=draining");
    }

    fn send(&self, state: &str) {
        let Some(address) = &self.0 else { return };
        let sent = UnixDatagram::unbound()
            .and_then(|socket| socket.send_to_addr(state.as_bytes(), address));
        if let Err(error) = sent {
            tracing::warn!(%error, "systemd cannot be told: NOTIFY_SOCKET");
        }
    }
}

#[cfg(target_os = "linux")]
fn abstract_name(name: &str) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_name(_name: &str) -> io::Result<SocketAddr> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "only Linux has abstract sockets"))
}
