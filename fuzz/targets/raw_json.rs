//! `RawJson`: takes the texts that are one JSON value, and `get` returns the last value of a key. The input is the key, a
//! line end, and the text.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use qomplement_webhooks::event::RawJson;
use qomplement_webhooks_fuzz::tree;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
    let (Ok(key), text) = (std::str::from_utf8(&input[..end]), &input[end + 1..]) else { return };

    let node = tree::read_bytes(text);
    let json = RawJson::try_from(Bytes::copy_from_slice(text));
    if let Ok(text) = std::str::from_utf8(text) {
        assert_eq!(text.parse::<RawJson>().is_ok(), node.is_some());
    }
    let (Some(node), Ok(json)) = (&node, &json) else {
        assert!(node.is_none() && json.is_err(), "{json:?}, and the model says {node:?}");
        return;
    };
    assert_eq!(json.as_str(), node.text);
    assert_eq!(json.is_null(), node.text == "null");
    let value = serde_json::from_str::<Value>(node.text).ok();
    assert_eq!(json.to_value().ok(), value);
    assert!(*json == *json);

    let member = node.last(key);
    let raw = json.get::<RawJson>(key).unwrap();
    assert_eq!(raw.as_ref().map(RawJson::as_str), member.map(|member| member.text));
    match (json.get::<Value>(key), member) {
        (Ok(None), None) => {}
        (Ok(Some(got)), Some(member)) => assert!(member.is(&got), "{got:?}"),
        (Err(_), Some(member)) => assert!(serde_json::from_str::<Value>(member.text).is_err()),
        (got, member) => panic!("{got:?}, and the model says {member:?}"),
    }
    let string = json.get::<String>(key).ok().flatten();
    assert_eq!(string.as_deref(), member.and_then(|member| member.string()));
});
