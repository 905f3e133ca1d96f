//! Requests as the sender makes them, without a network.

use bytes::Bytes;
use http_body_util::Full;

pub const PATH: &str = "/api/webhooks/qomplement";
pub const TOKEN: &str = "4Kz0PhvXDXnKcQ9JvW5c8tqGpn7oYbRm2sLd1aTfEuI";

/// A request with a payload.
pub fn request(body: impl Into<Bytes>) -> http::Request<Full<Bytes>> {
    http::Request::post(PATH).header("content-type", "application/json").body(Full::new(body.into())).unwrap()
}
