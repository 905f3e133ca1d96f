//! The table of requests and their answers. Other packages include this file: it needs `http` and `TOKEN` of the module
//! that it stands in, and nothing else.

use qomplement_webhooks::sender::Payload;

use super::TOKEN;
use super::http::{Draft, Reply, chunked, post};

/// The longest body that is taken.
pub const LIMIT: usize = 2000;
pub const RECEIVED: &str = r#"{"received":true}"#;

/// A webhook of a new job.
pub fn body() -> Vec<u8> {
    Payload::extract_completed().to_bytes().to_vec()
}

/// A reply as it must be, byte for byte.
pub fn expected(status: u16, code: &str, read: bool) -> Reply {
    let message = match code {
        "" => "",
        "in_progress" => "another delivery of this webhook is still being handled",
        "handler_failed" => "the handler failed",
        "handler_panicked" => "the handler panicked",
        "handler_timeout" => "the handler did not finish in time",
        "unavailable" => "the receiver cannot take webhooks at the moment",
        "method_not_allowed" => "webhooks are sent with POST",
        "unauthorized" => "the token is missing, wrong or given twice",
        "unsupported_media_type" => "the content type must be JSON",
        "unsupported_encoding" => "the body must not be encoded",
        "body_too_large" => "the body is too large",
        "body_timeout" => "the body was not complete in time",
        "invalid_json" => "the body is not one JSON value in UTF-8",
        "invalid_payload" => "job_id, data.id, data.type or data.status is missing or unreadable",
        "job_id_mismatch" => "job_id is not data.id",
        "unknown_job" => "no such job was started here",
        other => panic!("{other} is not in the table"),
    };
    let body = match code {
        "" => RECEIVED.to_owned(),
        code => format!(r#"{{"received":false,"error":{{"code":"{code}","message":"{message}"}}}}"#),
    };
    let length = body.len().to_string();
    let mut headers = vec![("content-type", "application/json"), ("content-length", &length)];
    match status {
        503 => headers.push(("retry-after", "5")),
        405 => headers.push(("allow", "POST")),
        401 => headers.push(("www-authenticate", "Bearer")),
        _ => {}
    }
    if !read {
        headers.push(("connection", "close"));
    }
    let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Reply { status, headers, body }
}

pub type Row = (&'static str, Draft);

/// Requests that are taken.
pub fn good() -> Vec<Row> {
    let token = format!("?token={TOKEN}");
    let bearer = |scheme: &str| post(body()).query("").header("authorization", &format!("{scheme} {TOKEN}"));
    let typed =
        |content_type: &str| post(body()).without("content-type").header("content-type", content_type);
    let mut exact = body();
    exact.resize(LIMIT, b' ');
    let chunks = |size| post(chunked(&body(), size)).undeclared().header("transfer-encoding", "chunked");
    vec![
        ("a token in the query", post(body())),
        ("a bearer token", bearer("Bearer")),
        ("a scheme in small letters", bearer("bearer")),
        ("another scheme beside the token", post(body()).header("authorization", "Basic eDp5")),
        ("a percent-encoded key", post(body()).query(&format!("?x=%20&%74oken={TOKEN}"))),
        ("a percent-encoded token", post(body()).query(&format!("?token=%34{}", &TOKEN[1..]))),
        ("other parameters", post(body()).query(&format!("?a&tokens=1&{}&=&b=%00", &token[1..]))),
        ("no content type", post(body()).without("content-type")),
        ("a charset", typed("application/json; charset=utf-8")),
        ("any parameters", typed("Application/JSON ; charset=x")),
        ("large letters", typed("APPLICATION/JSON")),
        ("+json", typed("application/vnd.api+json")),
        ("+JSON with parameters", typed("application/vnd.q+JSON;v=1")),
        ("not encoded", post(body()).header("content-encoding", "Identity")),
        ("exactly at the limit", post(&exact)),
        ("in chunks", chunks(7)),
        ("in chunks of a byte", chunks(1)),
    ]
}

/// Requests that are refused: status, code, and whether the body has been read by then.
pub fn refused() -> Vec<(u16, &'static str, bool, Vec<Row>)> {
    let bearer = format!("Bearer {TOKEN}");
    let query = |query: &str| post(body()).query(query);
    let typed =
        |content_type: &str| post(body()).without("content-type").header("content-type", content_type);
    let encoded = |encoding: &str| post(body()).header("content-encoding", encoding);
    let envelope = |id: &str, rest: &str| post(format!(r#"{{"job_id":{id},"data":{{"id":{id},{rest}}}}}"#));
    let large = vec![b' '; LIMIT + 1];
    let large_in_chunks = post(chunked(&large, 700)).undeclared().header("transfer-encoding", "chunked");
    vec![
        (
            405,
            "method_not_allowed",
            false,
            vec![
                ("PUT", post(body()).method("PUT")),
                ("PATCH", post(body()).method("PATCH")),
                ("DELETE with a body", post(body()).method("DELETE")),
                ("a method of one's own", post(body()).method("WEBHOOK")),
            ],
        ),
        (
            405,
            "method_not_allowed",
            true,
            vec![
                ("GET", post("").method("GET")),
                ("OPTIONS", post("").method("OPTIONS")),
                ("DELETE", post("").method("DELETE")),
            ],
        ),
        (
            401,
            "unauthorized",
            true,
            vec![
                ("no token and no body", post("").query("")),
                ("no token and a length of zero", post("").query("").header("content-length", "0")),
                ("no token and a length of two zeros", post("").query("").header("content-length", "00")),
            ],
        ),
        (
            401,
            "unauthorized",
            false,
            vec![
                ("no token", query("")),
                ("an empty token", query("?token=")),
                ("a wrong token", query("?token=x")),
                ("a beginning of the token", query(&format!("?token={}", &TOKEN[1..]))),
                ("a key in another case", query(&format!("?Token={TOKEN}"))),
                ("twice in the query", query(&format!("?token={TOKEN}&token={TOKEN}"))),
                ("twice, once encoded", query(&format!("?token={TOKEN}&%74oken={TOKEN}"))),
                ("a wrong one first", query(&format!("?token=x&token={TOKEN}"))),
                ("a wrong one last", query(&format!("?token={TOKEN}&token"))),
                ("in both places", post(body()).header("authorization", &bearer)),
                ("in the query, beside a wrong bearer", post(body()).header("authorization", "Bearer x")),
                ("a wrong bearer", query("").header("authorization", "Bearer x")),
                ("a bearer of nothing", query("").header("authorization", "Bearer ")),
                ("two headers", query("").header("authorization", &bearer).header("authorization", &bearer)),
                ("the token in another header", query("").header("x-token", TOKEN)),
            ],
        ),
        (
            415,
            "unsupported_media_type",
            false,
            vec![
                ("text", typed("text/plain")),
                ("a form", typed("application/x-www-form-urlencoded")),
                ("something longer", typed("application/jsonx")),
                ("something with JSON in it", typed("application/json-seq")),
                ("a suffix of nothing", typed("application/+json")),
                ("another family", typed("text/json")),
                ("a list", typed("application/json, text/plain")),
                ("two types", post(body()).header("content-type", "text/plain")),
                (
                    "two types, the good one last",
                    typed("text/plain").header("content-type", "application/json"),
                ),
            ],
        ),
        (
            415,
            "unsupported_encoding",
            false,
            vec![
                ("gzip", encoded("gzip")),
                ("a list", encoded("identity, gzip")),
                ("gzip after identity", encoded("identity").header("content-encoding", "gzip")),
            ],
        ),
        (
            413,
            "body_too_large",
            false,
            vec![("too large", post(&large)), ("too large in chunks", large_in_chunks)],
        ),
        (
            400,
            "invalid_json",
            true,
            vec![
                ("nothing", post("")),
                ("cut off", post(&body()[..100])),
                ("not UTF-8", post(b"\"\xff\"")),
                ("not UTF-8 where it is not read", post(b"{\"x\":\"\xff\"}")),
                ("a byte-order mark", post([b"\xef\xbb\xbf", &body()[..]].concat())),
                ("two values", post("{}{}")),
                ("a letter after it", post([&body()[..], b"x"].concat())),
                ("a repeated key", post(r#"{"job_id":"j","job\u005fid":"j"}"#)),
            ],
        ),
        (
            422,
            "invalid_payload",
            true,
            vec![
                ("no object", post("[]")),
                ("null", post("null")),
                ("nothing in it", post("{}")),
                ("no data", post(r#"{"job_id":"j"}"#)),
                ("data that is no object", post(r#"{"job_id":"j","data":"j"}"#)),
                ("an id that is a number", envelope("7", r#""type":"extract","status":"failed""#)),
                ("an empty id", envelope(r#""""#, r#""type":"extract","status":"failed""#)),
                ("an id with a space", envelope(r#""j j""#, r#""type":"extract","status":"failed""#)),
                ("no type", envelope(r#""j""#, r#""status":"failed""#)),
                ("a type of null", envelope(r#""j""#, r#""type":null,"status":"failed""#)),
                ("no status", envelope(r#""j""#, r#""type":"extract""#)),
            ],
        ),
        (
            422,
            "job_id_mismatch",
            true,
            vec![(
                "two jobs",
                post(r#"{"job_id":"j","data":{"id":"k","type":"extract","status":"failed"}}"#),
            )],
        ),
    ]
}
