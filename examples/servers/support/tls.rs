//! TLS for the server with hyper.

use std::sync::Arc;

use qomplement_webhooks::BoxError;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Reads the certificate and the key from the PEM files `TLS_CERT` and `TLS_KEY`, or makes a certificate for
/// `localhost` if `TLS` is `self-signed`; `None` if neither is set.
pub(crate) fn tls() -> Result<Option<TlsAcceptor>, BoxError> {
    let (chain, key) =
        match (std::env::var("TLS_CERT"), std::env::var("TLS_KEY"), std::env::var("TLS").as_deref()) {
            (Ok(chain), Ok(key), _) => {
                let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<Vec<_>, _>>()?;
                (chain, PrivateKeyDer::from_pem_file(key)?)
            }
            (_, _, Ok("self-signed")) => {
                let made =
                    rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
                let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
                (vec![made.cert.into()], key)
            }
            _ => return Ok(None),
        };
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}
