//! Whom this side takes a server for: one whose certificate the machine's roots vouch for, or the very one that pairing saw.
//!
//! Invariant: the handshake's signature is always checked against the certificate that was shown; only who stands behind the
//! certificate is judged here. While a device pairs, any certificate is let through and remembered: the code judges it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::model::Hash;

/// Whom to believe beside the machine's roots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Belief {
    /// Nobody.
    Roots,
    /// The certificate with this hash.
    Pinned(Hash),
    /// Anybody, to find out who it is.
    Anybody,
}

/// What a server showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The hash of its certificate.
    pub certificate: Hash,
    /// The machine's roots vouch for it and it is for that name.
    pub vouched_for: bool,
}

/// Where what a server showed is found after the handshake.
pub type Seen = Arc<Mutex<Option<Shown>>>;

/// The client's side of TLS.
pub fn client_config(belief: Belief, seen: Seen) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Verifier { provider: provider.clone(), belief, seen };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    // The provider is made with every version it can do, so this cannot fail.
    let builder = builder.expect("the provider speaks TLS 1.2 and 1.3");
    builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
}

/// The machine's roots, read once; `None` where there are none, as in small containers.
fn roots(provider: &Arc<CryptoProvider>) -> Option<Arc<WebPkiServerVerifier>> {
    static ROOTS: OnceLock<Option<Arc<WebPkiServerVerifier>>> = OnceLock::new();
    let read = || {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone()).build().ok()
    };
    ROOTS.get_or_init(read).clone()
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    belief: Belief,
    seen: Seen,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = Hash::of(end_entity);
        if self.belief == Belief::Pinned(certificate) {
            return Ok(ServerCertVerified::assertion());
        }
        // Only now: reading the machine's roots takes its time.
        let by_roots = match roots(&self.provider) {
            Some(roots) => roots.verify_server_cert(end_entity, intermediates, server_name, ocsp, now),
            None => Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)),
        };
        let shown = Shown { certificate, vouched_for: by_roots.is_ok() };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        if self.belief == Belief::Anybody { Ok(ServerCertVerified::assertion()) } else { by_roots }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
