//! Where the server listens: a port or a unix socket, in clear or in TLS.

use crate::cli::ServeArgs;
use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use server::{ClientCerts, Listener, Tls, TlsFiles};
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that the process needs beside its connections.
const OTHER_FILES: u64 = 128;
/// Who may connect to a unix socket: its user and group.
const DEFAULT_UDS_MODE: u32 = 0o660;

/// Where to listen, as configured.
#[derive(Debug)]
pub(crate) struct Listen {
    pub(crate) place: Place,
    pub(crate) tls: Option<TlsFiles>,
}

/// A port or a path.
#[derive(Debug)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Unix { path: PathBuf, mode: u32 },
}

impl Listen {
    pub(crate) fn resolve(args: &ServeArgs) -> Result<Self> {
        let host = args.host.as_deref().unwrap_or("127.0.0.1");
        let host = match host {
            "localhost" => IpAddr::from([127, 0, 0, 1]),
            other => other.parse().with_context(|| {
                format!("--host {other}: not an IP address; use 127.0.0.1 or 0.0.0.0 (everybody)")
            })?,
        };
        let place = match args.uds.clone() {
            Some(path) => Place::Unix { path, mode: uds_mode(args.uds_mode.as_deref())? },
            None if args.uds_mode.is_some() => {
                bail!(
                    "--uds-mode: there is no unix socket to have it; give its path with --uds PATH"
                )
            }
            None => Place::Tcp(SocketAddr::new(host, args.port.unwrap_or(8000))),
        };
        Ok(Self { place, tls: tls_files(args)? })
    }

    /// Where any port will do, the one that the server had before it began anew.
    pub(crate) fn at_former(mut self, port: Option<u16>) -> Self {
        if let (Place::Tcp(address), Some(port)) = (&mut self.place, port)
            && address.port() == 0
        {
            address.set_port(port);
        }
        self
    }

    /// Whether other machines reach it, and need no certificate for it.
    pub(crate) fn admits_anybody(&self) -> bool {
        let certs = self.tls.as_ref().map(|tls| tls.client_certs);
        let is_reached = matches!(self.place, Place::Tcp(address) if !address.ip().is_loopback());
        is_reached && certs != Some(ClientCerts::Required)
    }
}

fn uds_mode(octal: Option<&str>) -> Result<u32> {
    let Some(octal) = octal else { return Ok(DEFAULT_UDS_MODE) };
    let mode = u32::from_str_radix(octal, 8).ok().filter(|mode| *mode <= 0o777);
    mode.with_context(|| format!("--uds-mode {octal}: give permissions in octal, such as 660"))
}

fn tls_files(args: &ServeArgs) -> Result<Option<TlsFiles>> {
    let client_ca = args.ssl_ca_certs.clone();
    let client_certs = match (args.ssl_cert_reqs, &client_ca) {
        (None | Some(0), None) => ClientCerts::Ignored,
        (Some(0), Some(_)) => {
            bail!("--ssl-ca-certs is not used with --ssl-cert-reqs 0: leave one out")
        }
        (Some(1), Some(_)) => ClientCerts::Optional,
        (None | Some(2), Some(_)) => ClientCerts::Required,
        (Some(1 | 2), None) => {
            bail!(
                "--ssl-cert-reqs: give the authorities of client certificates with --ssl-ca-certs"
            )
        }
        (Some(other), _) => {
            bail!("--ssl-cert-reqs {other}: give 0 (none), 1 (optional) or 2 (required)")
        }
    };
    match (args.ssl_certfile.clone(), args.ssl_keyfile.clone()) {
        (Some(cert), key) => {
            let key = key.unwrap_or_else(|| cert.clone());
            Ok(Some(TlsFiles { cert, key, client_ca, client_certs }))
        }
        (None, Some(_)) => bail!("--ssl-keyfile: give the certificate too, with --ssl-certfile"),
        (None, None) if client_ca.is_some() => {
            bail!("--ssl-ca-certs: give the server's own certificate too, with --ssl-certfile")
        }
        (None, None) => Ok(None),
    }
}

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Bound {
    socket: Socket,
    /// What TLS is made of, to be reloaded.
    pub(crate) tls: Option<Arc<Tls>>,
    file: Option<SocketFile>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// Binds, and reads the certificate.
    pub(crate) fn new(listen: &Listen) -> Result<Self> {
        // First what costs nothing to undo.
        let tls = listen.tls.clone().map(Tls::load).transpose();
        let tls = tls.context("--ssl-certfile, --ssl-keyfile, --ssl-ca-certs")?.map(Arc::new);
        let (socket, file) = match &listen.place {
            Place::Tcp(address) => (Socket::Tcp(bind_tcp(*address)?), None),
            Place::Unix { path, mode } => {
                let (listener, file) = bind_unix(path, *mode)?;
                (Socket::Unix(listener), Some(file))
            }
        };
        Ok(Self { socket, tls, file })
    }

    /// The TCP address, if it is one.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Its address as a URL, for people.
    pub(crate) fn url(&self, listen: &Listen) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        match (&listen.place, self.address()) {
            (Place::Unix { path, .. }, _) => format!("{scheme}+unix:{}", path.display()),
            (_, Some(address)) => format!("{scheme}://{address}"),
            (Place::Tcp(address), None) => format!("{scheme}://{address}"),
        }
    }

    /// For the server, within a runtime. What comes with it is to be dropped after it.
    pub(crate) fn into_listener(self) -> Result<(Listener, Option<SocketFile>)> {
        let listener = match self.socket {
            Socket::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Listener::from(tokio::net::TcpListener::from_std(listener)?)
            }
            Socket::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Listener::from(tokio::net::UnixListener::from_std(listener)?)
            }
        };
        let listener = match self.tls {
            Some(tls) => listener.with_tls(tls),
            None => listener,
        };
        Ok((listener, self.file))
    }
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "port {} is in use: stop what listens there, or choose another with --port",
            address.port()
        ),
        ErrorKind::AddrNotAvailable => {
            anyhow!("--host {}: this machine has no such address", address.ip())
        }
        ErrorKind::PermissionDenied => {
            anyhow!("port {} needs more rights: choose one above 1023 with --port", address.port())
        }
        _ => anyhow!("cannot listen on {address}: {error}"),
    })
}

/// Binds beside the path and renames: nobody can connect before the permissions are set, and a
/// socket that a killed server left is replaced without a gap.
fn bind_unix(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile)> {
    let show = path.display();
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("--uds {show}: there is a file of that name that is no socket; it is left alone")
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            bail!("--uds {show}: another server listens there: stop it, or choose another path")
        }
        _ => {}
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let bind = || -> std::io::Result<(UnixListener, SocketFile)> {
        let listener = UnixListener::bind(&fresh)?;
        fs::set_permissions(&fresh, Permissions::from_mode(mode))?;
        fs::rename(&fresh, path)?;
        let file = SocketFile { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() };
        Ok((listener, file))
    };
    bind().inspect_err(|_| drop(fs::remove_file(&fresh))).with_context(|| {
        format!("--uds {show}: cannot listen there; its folder must exist and be writable")
    })
}

/// The file of a unix socket, removed when dropped unless another server has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // It is left behind at worst, and replaced by the next server.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Lets the process open as many files as it may; how many connections that leaves room for.
pub(crate) fn raise_file_limit(max_connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_) => limit.current,
    };
    let room = current.map_or(usize::MAX, |files| files.saturating_sub(OTHER_FILES) as usize);
    if room < max_connections {
        tracing::warn!(
            "connections are limited to {room}: raise `ulimit -n` for {max_connections}"
        );
    }
    max_connections.min(room.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(change: impl FnOnce(&mut ServeArgs)) -> ServeArgs {
        let mut args = ServeArgs::default();
        change(&mut args);
        args
    }

    fn refused(change: impl FnOnce(&mut ServeArgs)) -> String {
        format!("{:#}", Listen::resolve(&args(change)).unwrap_err())
    }

    #[test]
    fn who_is_let_in_is_known() {
        let file = || Some(PathBuf::from("x.pem"));
        let admits = |args: &ServeArgs| Listen::resolve(args).unwrap().admits_anybody();
        let mut open = args(|a| a.host = Some("0.0.0.0".to_owned()));
        assert!(admits(&open));
        assert!(!admits(&args(|_| ())));
        assert!(!admits(&ServeArgs { uds: file(), ..open.clone() }));
        open.ssl_certfile = file();
        assert!(admits(&open));
        open.ssl_ca_certs = file();
        assert!(!admits(&open));
        open.ssl_cert_reqs = Some(1);
        assert!(admits(&open));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let file = || Some(PathBuf::from("x.pem"));
        assert!(refused(|a| a.ssl_keyfile = file()).contains("--ssl-certfile"));
        assert!(refused(|a| a.ssl_ca_certs = file()).contains("--ssl-certfile"));
        let without_authorities = refused(|a| {
            (a.ssl_certfile, a.ssl_cert_reqs) = (file(), Some(2));
        });
        assert!(without_authorities.contains("--ssl-ca-certs"));
        let unused = refused(|a| {
            (a.ssl_certfile, a.ssl_ca_certs, a.ssl_cert_reqs) = (file(), file(), Some(0));
        });
        assert!(unused.contains("--ssl-cert-reqs 0"), "{unused}");
        assert!(refused(|a| a.ssl_cert_reqs = Some(3)).contains("required"));
        for mode in ["9", "1777", "rw"] {
            let error = refused(|a| (a.uds, a.uds_mode) = (file(), Some(mode.into())));
            assert!(error.contains("octal"), "{error}");
        }
        let no_socket = refused(|a| a.uds_mode = Some("660".into()));
        assert!(
            no_socket.contains("--uds-mode") && no_socket.contains("--uds PATH"),
            "{no_socket}"
        );
    }

    #[test]
    fn authorities_alone_mean_that_a_certificate_is_required() {
        let file = || Some(PathBuf::from("x.pem"));
        let listen =
            Listen::resolve(&args(|a| (a.ssl_certfile, a.ssl_ca_certs) = (file(), file())));
        let tls = listen.unwrap().tls.unwrap();
        assert_eq!(tls.client_certs, ClientCerts::Required);
        assert_eq!(tls.key, tls.cert, "one file may hold both");
    }
}
