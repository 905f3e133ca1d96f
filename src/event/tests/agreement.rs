//! The parser agrees with one that works on a tree, and with serde_json about what JSON is.

use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::{documented, read};
use crate::event::cursor::Cursor;
use crate::event::{JobId, ParseError, RawJson, WebhookEvent};

/// JSON of any shape, with keys that are read among its own.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        // Quarters: serde_json reads the last bit of other floats differently.
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 4.0)),
        "[ -~é\\n\"\\\\]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z\"\\\\é]{1,5}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Members for an object, by name, some of them present.
fn members(names: &'static [&'static str]) -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    prop::collection::vec((prop::sample::select(names), any_json()), 0..6).prop_map(|mut members| {
        members.sort_by_key(|(name, _)| *name);
        members.dedup_by_key(|(name, _)| *name);
        members
    })
}

fn likely(values: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop_oneof![8 => prop::sample::select(values).prop_map(Value::from), 1 => any_json()]
}

fn any_body() -> impl Strategy<Value = Value> {
    let result = members(&[
        "model",
        "language",
        "confidence",
        "fields",
        "tables",
        "pages_processed",
        "fields_filled",
        "download_url",
    ]);
    let error = members(&["code", "message"]);
    let object = |members: Vec<(&str, Value)>| {
        Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    };
    let result = prop_oneof![6 => result.prop_map(object), 1 => any_json()];
    let error = prop_oneof![6 => error.prop_map(object), 1 => any_json()];
    let types = likely(&["extract", "fill_pdf", "fill_excel", "other"]);
    let statuses = likely(&["completed", "failed", "processing"]);
    (
        likely(&["j"]),
        likely(&["j", "j", "j", "k"]),
        types,
        statuses,
        result,
        error,
        any_json(),
        any::<[bool; 4]>(),
    )
        .prop_map(|(outer, inner, job_type, status, result, error, extra, keep)| {
            let mut data = json!({"id": inner, "type": job_type, "status": status, "extra": extra});
            if keep[0] {
                data["result"] = result;
            }
            if keep[1] {
                data["error"] = error;
            }
            if keep[2] {
                json!({"job_id": outer, "data": data, "x": extra})
            } else {
                json!({"data": data, "job_id": outer})
            }
        })
}

/// The expected event, worked out on a tree.
fn reference(body: &Value) -> Result<(&'static str, Value), &'static str> {
    let id = |value: &Value| value.as_str().and_then(|text| text.parse::<JobId>().ok());
    let data = &body["data"];
    let outer = id(&body["job_id"]).ok_or("envelope")?;
    if id(&data["id"]).ok_or("envelope")? != outer {
        return Err("mismatch");
    }
    let job_type = data["type"].as_str().ok_or("envelope")?;
    let status = data["status"].as_str().ok_or("envelope")?;
    let known = ["extract", "fill_pdf", "fill_excel"].contains(&job_type);
    Ok(match (known, status) {
        (true, "failed") => {
            ("job_failed", json!([data["error"]["code"].as_str(), data["error"]["message"].as_str()]))
        }
        (true, "completed") if data["result"].is_object() => {
            let result = &data["result"];
            if job_type == "extract" {
                let read = json!([
                    result["model"].as_str(),
                    result["language"].as_str(),
                    result["confidence"].as_f64(),
                    result["pages_processed"].as_u64(),
                    result["fields"],
                    result["tables"],
                ]);
                ("extract_completed", read)
            } else {
                ("fill_completed", json!([result["download_url"].as_str(), result["fields_filled"].as_u64()]))
            }
        }
        _ => ("unrecognized", json!([status])),
    })
}

/// The same summary of a parsed event.
fn summary(event: &WebhookEvent) -> (&'static str, Value) {
    let tree = |json: &Option<RawJson>| json.as_ref().map(|json| json.to_value().unwrap());
    let read = match event {
        WebhookEvent::ExtractCompleted { result, .. } => json!([
            result.model.as_deref(),
            result.language.as_deref(),
            result.confidence,
            result.pages_processed,
            tree(&result.fields),
            tree(&result.tables),
        ]),
        WebhookEvent::FillCompleted { result, .. } => {
            json!([result.download_url.as_deref(), result.fields_filled])
        }
        WebhookEvent::JobFailed { error, .. } => json!([error.code.as_deref(), error.message.as_deref()]),
        WebhookEvent::Unrecognized { job } => json!([job.status().as_str()]),
    };
    (event.name(), read)
}

/// Whether the cursor and serde_json both take a text to be one JSON value. Panics if they disagree.
fn is_json(text: &str) -> bool {
    let mut cursor = Cursor::new(text);
    let read = cursor.value().and_then(|json| cursor.end().map(|()| json));
    let skipped = serde_json::from_str::<IgnoredAny>(text);
    match (&read, &skipped) {
        (Ok(read), Ok(_)) => {
            assert_eq!(read.of(text), text.trim_matches([' ', '\n', '\t', '\r']));
            assert_eq!(read.string(text), serde_json::from_str(text).ok(), "{text:?}");
        }
        (Err(_), Err(skipped)) => assert_eq!(cursor.error().to_string(), skipped.to_string()),
        _ => panic!("{text:?} is read {read:?} and skipped {skipped:?}"),
    }
    read.is_ok()
}

#[test]
fn the_cursor_and_serde_json_agree_on_all_short_texts() {
    let parts = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\"a\"",
        "\"é\\n\"",
        "\\ud83d",
        "\\u12",
        "\u{1f}",
        "\u{7f}",
        "0",
        "12",
        "-",
        ".",
        "e",
        "E+",
        "true",
        "nul",
        "null",
        " ",
        "\n",
        "\u{a0}",
    ];
    let (mut texts, mut valid) = (vec![String::new()], 0);
    for _ in 0..4 {
        texts = texts.iter().flat_map(|text| parts.map(|part| format!("{text}{part}"))).collect();
        valid += texts.iter().filter(|text| is_json(text)).count();
    }
    assert!(valid > 1000, "only {valid} texts are JSON");
}

#[test]
fn the_cursor_and_serde_json_agree_on_strings_and_nesting_of_any_length() {
    for length in 0..40 {
        for special in
            ["", "\"", "\\", "\\n", "\\u00e9", "\u{0}", "\u{1f}", " ", "\u{7f}", "é", "€", "😀", "\u{80}"]
        {
            let text = "x".repeat(length);
            let _ = is_json(&format!("\"{text}{special}{text}\""));
        }
    }
    for levels in [1, 63, 64, 65, 66, 200, 10_000] {
        for inner in ["", "1", "1,", "\"a\": 1"] {
            let object = r#"{"a":"#.repeat(levels) + "[" + inner + "]" + &"}".repeat(levels);
            assert_eq!(is_json(&object), ["", "1"].contains(&inner));
            let array = "[".repeat(levels) + inner + &"]".repeat(levels);
            assert_eq!(is_json(&array), ["", "1"].contains(&inner));
            assert!(!is_json(&array[1..]) && !is_json(&array[..array.len() - 1]));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_body_is_read_as_a_tree_would_be(body in any_body(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) }.unwrap();
        let read = read(text).map_err(|error| match error {
            ParseError::Envelope(_) => "envelope",
            ParseError::JobIdMismatch => "mismatch",
            other => panic!("{other}"),
        });
        prop_assert_eq!(read.as_ref().map(summary).map_err(|error| *error), reference(&body));
    }

    #[test]
    fn a_damaged_body_is_refused_exactly_when_it_is_no_json(at in 0usize..700, with: u8, cut: bool) {
        let mut body = documented("extract_completed").to_vec();
        let at = at % body.len();
        if cut { body.remove(at); } else { body[at] = with; }
        let read = read(body.clone());
        match std::str::from_utf8(&body) {
            Err(_) => prop_assert!(matches!(read, Err(ParseError::NotUtf8(_)))),
            Ok(text) => {
                let json = serde_json::from_str::<IgnoredAny>(text).is_ok();
                prop_assert_eq!(matches!(read, Err(ParseError::NotJson(_))), !json, "{}", text);
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = read(body);
    }
}
