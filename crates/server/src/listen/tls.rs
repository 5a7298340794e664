//! TLS from files that may change: every connection takes what was last read, and what cannot be
//! used leaves the last good certificate in its place.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoClientAuth, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// How often the files are looked at. They are small, and one that is replaced through a link, as
/// Kubernetes does, tells a watcher of the file nothing.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// Where certificate and key are, and who may come in; all in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, followed by those that lead to its authority.
    pub cert: PathBuf,
    /// Its key, not encrypted: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
    /// Authorities of client certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must show one.
    pub client_certs: ClientCerts,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCerts {
    /// They are not asked.
    Ignored,
    /// One that is shown must be good.
    Optional,
    /// Nobody comes in without one.
    Required,
}

/// Why files cannot be used; names the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

/// The bytes of all files.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
}

/// What connections are secured with.
pub struct Tls {
    files: TlsFiles,
    acceptor: RwLock<TlsAcceptor>,
    /// What was read last, good or not: the same is not tried, nor complained of, twice.
    seen: Mutex<Contents>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One is missing, holds nothing of its kind, or the key is another certificate's.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let acceptor = files.acceptor(&contents)?;
        Ok(Self { files, acceptor: RwLock::new(acceptor), seen: Mutex::new(contents) })
    }

    /// Reads the files again; whether they have changed. Connections that are open stay as they are.
    ///
    /// # Errors
    /// They cannot be used; new connections still get what was good before.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let contents = self.files.read()?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == contents {
            return Ok(false);
        }
        let acceptor = self.files.acceptor(&contents);
        *seen = contents;
        *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = acceptor?;
        Ok(true)
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reloads whenever the files change, for ever.
    pub(super) async fn follow_files(self: &Arc<Self>) {
        let mut last_error = None;
        loop {
            sleep(REFRESH_INTERVAL).await;
            let tls = Arc::clone(self);
            let Ok(reloaded) = tokio::task::spawn_blocking(move || tls.reload()).await else {
                continue; // The runtime is ending.
            };
            match &reloaded {
                Ok(true) => tracing::info!("TLS files have changed and are in use"),
                Ok(false) => {}
                // A file that is missing is missing at every look.
                Err(error) if last_error.as_ref() == Some(error) => {}
                Err(error) => tracing::error!(%error, "TLS files have changed and are not used"),
            }
            last_error = reloaded.err();
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl TlsFiles {
    fn read(&self) -> Result<Contents, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| TlsError(format!("{}: {error}", path.display())))
        };
        Ok(Contents {
            cert: read(&self.cert)?,
            key: read(&self.key)?,
            client_ca: self.client_ca.as_deref().map(read).transpose()?.unwrap_or_default(),
        })
    }

    fn acceptor(&self, contents: &Contents) -> Result<TlsAcceptor, TlsError> {
        let certs = certificates(&self.cert, &contents.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| {
            let why = match error {
                pem::Error::NoItemsFound => {
                    "holds no private key in PEM that is not encrypted".to_owned()
                }
                error => error.to_string(),
            };
            TlsError(format!("{}: {why}", self.key.display()))
        })?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
            .with_client_cert_verifier(self.verifier(contents)?)
            .with_single_cert(certs, key)
            .map_err(|error| {
                let (cert, key) = (self.cert.display(), self.key.display());
                TlsError(format!("{cert} and {key} do not go together: {error}"))
            })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn verifier(&self, contents: &Contents) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let Some(path) = self.client_ca.as_deref() else { return Ok(Arc::new(NoClientAuth)) };
        if self.client_certs == ClientCerts::Ignored {
            return Ok(Arc::new(NoClientAuth));
        }
        let unusable = |error: &dyn fmt::Display| TlsError(format!("{}: {error}", path.display()));
        let mut roots = RootCertStore::empty();
        for root in certificates(path, &contents.client_ca)? {
            roots.add(root).map_err(|error| unusable(&error))?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = match self.client_certs {
            ClientCerts::Required => verifier,
            _ => verifier.allow_unauthenticated(),
        };
        verifier.build().map(|verifier| verifier as _).map_err(|error| unusable(&error))
    }
}

/// The certificates in a file; at least one.
fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let certs = certs.map_err(|error| TlsError(format!("{}: {error}", path.display())))?;
    if certs.is_empty() {
        return Err(TlsError(format!("{}: holds no certificate in PEM", path.display())));
    }
    Ok(certs)
}
