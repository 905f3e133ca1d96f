//! Certificates of the tests' servers.

/// A certificate for `localhost`, and its key.
pub fn certificate() -> [(&'static str, String); 2] {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    [("server.crt", made.cert.pem()), ("server.key", made.signing_key.serialize_pem())]
}
