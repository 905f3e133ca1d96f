//! The events that bodies parse to, and the bodies that are refused.

mod agreement;
mod job;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;

const ID: &str = "550e8400-e29b-41d4-a716-446655440000";

fn documented(name: &str) -> Bytes {
    Bytes::from_static(match name {
        "extract_completed" => include_bytes!("../../tests/payloads/extract_completed.json"),
        "extract_failed" => include_bytes!("../../tests/payloads/extract_failed.json"),
        "fill_excel_completed" => include_bytes!("../../tests/payloads/fill_excel_completed.json"),
        _ => include_bytes!("../../tests/payloads/fill_pdf_completed.json"),
    })
}

fn read(body: impl Into<Bytes>) -> Result<WebhookEvent, ParseError> {
    body.into().try_into()
}

/// A body with these members in `data`, beside its id.
fn with_data(data: &str) -> String {
    format!(r#"{{"job_id":"j","data":{{"id":"j",{data}}}}}"#)
}

/// A finished extraction with this result.
fn extract(result: &str) -> WebhookEvent {
    read(with_data(&format!(r#""type":"extract","status":"completed","result":{result}"#))).unwrap()
}

fn result(result: &str) -> ExtractResult {
    match extract(result) {
        WebhookEvent::ExtractCompleted { result, .. } => result,
        other => panic!("{result} makes {other:?}"),
    }
}

#[test]
fn the_documented_extraction_is_read() {
    let body = documented("extract_completed");
    let WebhookEvent::ExtractCompleted { job, result } = read(body.clone()).unwrap() else { panic!() };
    assert_eq!(job.id(), &ID);
    assert_eq!(job.job_type(), &JobType::Extract);
    assert_eq!(job.raw(), &body);
    assert_eq!((job.attempt(), job.fence()), (1, 1));
    assert_eq!(result.model.as_deref(), Some("qomplement-OCR-v1"));
    assert_eq!(result.document_type.as_deref(), Some("invoice"));
    assert_eq!(result.language.as_deref(), Some("en"));
    assert_eq!(result.confidence, Some(95.0));
    assert_eq!(result.pages_processed, Some(12));
    assert_eq!(result.processing_time_ms, Some(45_000));
    assert_eq!(result.tables.unwrap().as_str(), "[]");
    let fields = result.fields.unwrap();
    assert_eq!(fields.get::<String>("total_amount").unwrap().as_deref(), Some("1500.50"));
    assert_eq!(
        fields.to_value().unwrap(),
        json!({"invoice_number": "INV-2025-001234", "total_amount": "1500.50", "vendor_name": "ABC Corp"})
    );
}

#[test]
fn the_documented_forms_and_failure_are_read() {
    for (name, job_type) in
        [("fill_pdf_completed", JobType::FillPdf), ("fill_excel_completed", JobType::FillExcel)]
    {
        let WebhookEvent::FillCompleted { job, result } = read(documented(name)).unwrap() else { panic!() };
        assert_eq!((job.id(), job.job_type()), (&ID.parse().unwrap(), &job_type));
        assert_eq!(result.download_url.unwrap(), format!("/v1/jobs/{ID}/download"));
        assert_eq!((result.fields_filled, result.fields_total), (Some(8), Some(12)));
    }
    let WebhookEvent::JobFailed { job, error } = read(documented("extract_failed")).unwrap() else {
        panic!()
    };
    assert_eq!(job.job_type(), &JobType::Extract);
    assert_eq!(error.code.as_deref(), Some("processing_error"));
    assert_eq!(error.message.as_deref(), Some("Could not extract text from document"));
}

#[test]
fn type_and_status_choose_the_event() {
    for job_type in ["extract", "fill_pdf", "fill_excel", "summarize", ""] {
        for status in ["completed", "failed", "processing", ""] {
            let event = read(with_data(&format!(
                r#""type":"{job_type}","status":"{status}","result":{{}},"error":{{}}"#
            )))
            .unwrap();
            let expected = match (job_type, status) {
                ("extract", "completed") => "extract_completed",
                ("fill_pdf" | "fill_excel", "completed") => "fill_completed",
                ("extract" | "fill_pdf" | "fill_excel", "failed") => "job_failed",
                _ => "unrecognized",
            };
            assert_eq!(event.name(), expected, "{job_type} {status}");
            assert_eq!(event.job().job_type().as_str(), job_type);
            assert_eq!(event.job().status().as_str(), status);
        }
    }
}

#[test]
fn any_order_of_keys_is_read_alike() {
    let members =
        [r#""id":"j""#, r#""type":"extract""#, r#""status":"completed""#, r#""result":{"language":"de"}"#];
    let mut orders = vec![vec![]];
    for _ in 0..members.len() {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<&str>| {
                let left =
                    members.iter().filter(|member| !order.contains(member)).copied().collect::<Vec<_>>();
                left.into_iter().map(move |member| [order.clone(), vec![member]].concat())
            })
            .collect();
    }
    assert_eq!(orders.len(), 24);
    for order in orders {
        let data = order.join(",");
        for body in [
            format!(r#"{{"job_id":"j","data":{{{data}}}}}"#),
            format!(r#" {{ "data" : {{ {data} }} , "job_id" : "j" }} "#),
        ] {
            let event = read(body.clone()).unwrap();
            let WebhookEvent::ExtractCompleted { result, .. } = event else { panic!("{body}") };
            assert_eq!(result.language.as_deref(), Some("de"), "{body}");
        }
    }
}

#[test]
fn what_is_missing_null_or_odd_is_none_and_the_event_is_kept() {
    let odd = ["null", "true", "[]", "{}", r#"[{"a":[1]}]"#, "-0.0e-1", "1e999", r#""\ud800""#];
    assert_eq!(result("{}"), ExtractResult::default());
    for value in odd {
        let read = result(&format!(
            r#"{{"model":{value},"document_type":{value},"language":{value},"pages_processed":{value},
                 "processing_time_ms":{value}}}"#
        ));
        assert_eq!(read, ExtractResult::default(), "{value}");
    }
    for value in ["null", "\"95\"", "1e999", "[95]", r#""\ud800""#] {
        assert_eq!(result(&format!(r#"{{"confidence":{value}}}"#)).confidence, None, "{value}");
    }
    for value in ["-1", "1.5", "18446744073709551616", "\"12\""] {
        assert_eq!(result(&format!(r#"{{"pages_processed":{value}}}"#)).pages_processed, None, "{value}");
    }
    assert_eq!(result(r#"{"pages_processed":18446744073709551615}"#).pages_processed, Some(u64::MAX));
    assert_eq!(result(r#"{"confidence":99.5}"#).confidence, Some(99.5));
    assert_eq!(result(r#"{"fields":null,"tables":null}"#), ExtractResult::default());
    // Documented as an object and an array, but theirs to shape.
    assert_eq!(result(r#"{"fields":"x","tables":1e999}"#).tables.unwrap().as_str(), "1e999");
}

#[test]
fn a_result_that_is_no_object_is_unrecognized_and_an_error_that_is_none_is_a_failure() {
    for value in ["null", "1e999", "\"x\"", "[{}]", r#""\ud800""#, "false"] {
        let event = extract(value);
        let WebhookEvent::Unrecognized { job } = &event else { panic!("{value}: {event:?}") };
        assert_eq!(job.status(), &JobStatus::Completed);
        let failed =
            read(with_data(&format!(r#""type":"extract","status":"failed","error":{value}"#))).unwrap();
        let WebhookEvent::JobFailed { error, .. } = failed else { panic!("{value}") };
        assert_eq!(error, JobError::default());
    }
    let without = read(with_data(r#""type":"fill_pdf","status":"completed""#)).unwrap();
    assert_eq!(without.name(), "unrecognized");
    assert_eq!(read(with_data(r#""type":"fill_pdf","status":"failed""#)).unwrap().name(), "job_failed");
}

#[test]
fn deep_nesting_is_read_in_constant_stack() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(result(&format!(r#"{{"tables":{deep}}}"#)).tables.unwrap().as_str(), deep);
    assert_eq!(extract(&deep).name(), "unrecognized");
}

#[test]
fn escaped_keys_and_strings_are_read() {
    let body = r#"{"job\u005fid":"\u006a","d\u0061ta":{"i\u0064":"j","type":"extr\u0061ct","st\u0061tus":"completed",
        "res\u0075lt":{"l\u0061nguage":"\"d\\e\"","model":"caf\u00e9 \ud83d\ude00"}}}"#;
    let WebhookEvent::ExtractCompleted { job, result } = read(body).unwrap() else { panic!() };
    assert_eq!(job.id(), &"j");
    assert_eq!(result.language.as_deref(), Some(r#""d\e""#));
    assert_eq!(result.model.as_deref(), Some("café 😀"));
}

/// Half of a surrogate pair: JSON, and no Rust string.
const LONE: [&str; 3] = [r"\ud83d", r"job_id\udc00", r"\ud83dx"];

#[test]
fn a_key_that_is_no_rust_string_is_skipped_wherever_keys_are_read() {
    for lone in LONE {
        let any = r#"{"a":[1,{"b":"\ud800"}],"job_id":"k"}"#;
        let extra = format!(r#""{lone}":{any}"#);
        let body = format!(
            r#"{{{extra},"job_id":"j","data":{{{extra},"id":"j","type":"extract","status":"completed",
                "result":{{{extra},"model":"m","fields":{{{extra},"total":7,{extra}}}}},
                "error":{{{extra},"code":"c"}},{extra}}},{extra}}}"#
        );
        let WebhookEvent::ExtractCompleted { job, result } = read(body.clone()).unwrap() else { panic!() };
        assert_eq!((job.id(), result.model.as_deref()), (&"j".parse().unwrap(), Some("m")), "{lone}");
        let fields = result.fields.unwrap();
        assert_eq!(fields.get::<u8>("total").unwrap(), Some(7), "{lone}");
        assert_eq!(fields.get::<u8>("").unwrap(), None, "{lone}: it was taken for another key");
        let envelope = Envelope::try_from(Bytes::from(body.clone())).unwrap();
        assert_eq!(envelope.job(), job.id(), "{lone}");

        let WebhookEvent::JobFailed { error, .. } = read(body.replace("completed", "failed")).unwrap() else {
            panic!()
        };
        assert_eq!(error.code.as_deref(), Some("c"), "{lone}");
        // A value after such a key is read as strictly as any other.
        let repeated = read(body.replacen(r#""job_id":"j""#, r#""job_id":"j","job_id":"j""#, 1));
        assert!(matches!(repeated, Err(ParseError::RepeatedKey("job_id"))), "{lone}: {repeated:?}");
        for broken in [format!(r#"{{"{lone}"}}"#), format!(r#"{{"{lone}":}}"#), format!(r#"{{"{lone}":01}}"#)]
        {
            assert!(matches!(read(broken.clone()), Err(ParseError::NotJson(_))), "{broken}");
        }
    }
    for no_key in [r#"{"\ud83":1}"#, r#"{"\uzzzz":1}"#, "{\"\\ud83d\n\":1}"] {
        assert!(matches!(read(no_key), Err(ParseError::NotJson(_))), "{no_key}");
    }
}

#[test]
fn a_value_that_is_no_rust_string_is_missing_in_a_result_and_unreadable_in_the_envelope() {
    for lone in LONE {
        let result = result(&format!(r#"{{"model":"{lone}","language":"en","fields":"{lone}"}}"#));
        assert_eq!((result.model, result.language.as_deref()), (None, Some("en")), "{lone}");
        assert!(result.fields.unwrap().as_str().contains(lone), "JSON is kept whatever it is");
        for (member, data) in [
            ("data.type", format!(r#""type":"{lone}","status":"failed""#)),
            ("data.status", format!(r#""type":"extract","status":"{lone}""#)),
        ] {
            let read = read(with_data(&data));
            assert!(matches!(read, Err(ParseError::Envelope(path)) if path == member), "{lone}: {read:?}");
        }
    }
}

#[test]
fn a_repeated_key_is_refused_where_it_is_read_and_nowhere_else() {
    let refused = [
        (r#"{"job_id":"j","job_id":"j","data":{"id":"j","type":"extract","status":"failed"}}"#, "job_id"),
        (
            r#"{"job_id":"j","job\u005fid":"j","data":{"id":"j","type":"extract","status":"failed"}}"#,
            "job_id",
        ),
        (r#"{"job_id":"j","data":null,"data":{"id":"j","type":"extract","status":"failed"}}"#, "data"),
        (r#"{"job_id":"j","data":{"id":"j","id":"j","type":"extract","status":"failed"}}"#, "data.id"),
        (
            r#"{"job_id":"j","data":{"id":"j","type":"extract","status":"failed","status":"failed"}}"#,
            "data.status",
        ),
        (r#"{"data":{"result":1,"result":{}}}"#, "data.result"),
        (r#"{"data":{"result":{},"result":1}}"#, "data.result"),
        (r#"{"data":{"result":{"fields":1,"fields":1}}}"#, "data.result.fields"),
        (r#"{"data":{"result":{"fields":1,"f\u0069elds":1}}}"#, "data.result.fields"),
        (r#"{"data":{"error":{"code":null,"code":"x"}}}"#, "data.error.code"),
    ];
    for (body, key) in refused {
        match read(body) {
            Err(ParseError::RepeatedKey(path)) => assert_eq!(path, key),
            other => panic!("{body}: {other:?}"),
        }
    }
    let accepted = with_data(
        r#""x":1,"x":2,"type":"extract","status":"completed","result":{"y":1,"y":2,"fields":{"z":1,"z":2}}"#,
    );
    let WebhookEvent::ExtractCompleted { result, .. } = read(accepted).unwrap() else { panic!() };
    assert_eq!(result.fields.unwrap().get::<u8>("z").unwrap(), Some(2));
}

#[test]
fn what_is_not_one_json_value_in_utf8_is_refused() {
    let body = documented("extract_completed");
    for end in 0..body.len() - 2 {
        let cut = read(body.slice(..end));
        assert!(matches!(cut, Err(ParseError::NotJson(_))), "cut off after {end}: {cut:?}");
    }
    let text = std::str::from_utf8(&body).unwrap();
    for bad in [
        format!("\u{feff}{text}"),
        format!("{text}x"),
        format!("{text}{text}"),
        format!("{text},"),
        "{'a':1}".into(),
    ] {
        assert!(matches!(read(bad.clone()), Err(ParseError::NotJson(_))), "{bad}");
    }
    for bad in [
        "{\"a\":\"\t\"}",
        "{\"a\tb\":1}",
        "{,}",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "{a:1}",
        "[1,]",
        "01",
        "{\"a\":\"\\x\"}",
        "nul",
    ] {
        assert!(matches!(read(bad), Err(ParseError::NotJson(_))), "{bad:?}");
    }
    let mut latin1 = text.replace("ABC", "ABÇ").into_bytes();
    assert!(read(latin1.clone()).is_ok());
    let at = latin1.iter().position(|byte| *byte == 0xc3).unwrap();
    latin1.remove(at);
    assert!(matches!(read(latin1), Err(ParseError::NotUtf8(_))));
    let Err(ParseError::NotJson(error)) = read(format!("{}\n\n  oops", text.trim_end())) else { panic!() };
    assert_eq!(
        error.line(),
        text.trim_end().lines().count() + 2,
        "the error counts from the body's beginning"
    );
}

#[test]
fn an_envelope_must_be_readable() {
    let cases = [
        ("[]", "job_id"),
        ("null", "job_id"),
        ("\"x\"", "job_id"),
        ("1e999", "job_id"),
        ("{}", "job_id"),
        (r#"{"job_id":7,"data":{"id":"7"}}"#, "job_id"),
        (r#"{"job_id":"","data":{"id":"","type":"extract","status":"failed"}}"#, "job_id"),
        (r#"{"job_id":"a b","data":{"id":"a b","type":"extract","status":"failed"}}"#, "job_id"),
        (r#"{"job_id":"é","data":{"id":"é","type":"extract","status":"failed"}}"#, "job_id"),
        (r#"{"job_id":"j"}"#, "data.id"),
        (r#"{"job_id":"j","data":[]}"#, "data.id"),
        (r#"{"job_id":"j","data":{"id":null}}"#, "data.id"),
        (r#"{"job_id":"j","data":{"id":"k k"}}"#, "data.id"),
        (r#"{"job_id":"j","data":{"id":"j"}}"#, "data.type"),
        (r#"{"job_id":"j","data":{"id":"j","type":{},"status":"failed"}}"#, "data.type"),
        (r#"{"job_id":"j","data":{"id":"j","type":"extract"}}"#, "data.status"),
        (r#"{"job_id":"j","data":{"id":"j","type":"extract","status":["failed"]}}"#, "data.status"),
    ];
    for (body, missing) in cases {
        match read(body) {
            Err(ParseError::Envelope(path)) => assert_eq!(path, missing, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    let mismatch = read(r#"{"job_id":"j","data":{"id":"k","type":"extract","status":"failed"}}"#);
    assert!(matches!(mismatch, Err(ParseError::JobIdMismatch)), "{mismatch:?}");
}

#[test]
fn job_ids_are_1_to_255_visible_ascii_characters_compared_exactly() {
    for bad in
        [String::new(), "a".repeat(256), " ".into(), "a b".into(), "é".into(), "a\u{7f}".into(), "\0".into()]
    {
        assert_eq!(bad.parse::<JobId>(), Err(InvalidJobId), "{bad:?}");
    }
    let upper = ID.to_uppercase();
    let odd =
        [ID.replace('-', ""), format!("{{{}}}", &ID[2..]), format!("{}g", &ID[1..]), ID.replace('4', "-")];
    for good in [ID.to_owned(), upper.clone(), "a".repeat(255), "!~".into()].into_iter().chain(odd) {
        let id: JobId = good.parse().unwrap();
        assert_eq!(id.to_string(), good);
        assert_eq!(id, *good.as_str());
        let text: &str = &id.as_str();
        assert_eq!((text, format!("{:>300}", id.as_str())), (&*good, format!("{good:>300}")));
        assert_eq!(serde_json::to_value(&id).unwrap(), json!(good));
        assert_eq!(serde_json::from_value::<JobId>(json!(good)).unwrap(), id);
    }
    assert_ne!(upper.parse::<JobId>(), ID.parse::<JobId>());
    assert_eq!(size_of::<JobId>(), 24, "stores keep a million of them");
    assert!(serde_json::from_value::<JobId>(json!("a b")).is_err());
}

#[test]
fn strings_and_json_are_slices_of_the_body() {
    let body = documented("extract_completed");
    let WebhookEvent::ExtractCompleted { job, result } = read(body).unwrap() else { panic!() };
    let raw = job.raw().as_ptr_range();
    let (fields, model) = (result.fields.unwrap(), result.model.unwrap());
    assert!(raw.contains(&fields.as_bytes().as_ptr()), "the fields were copied");
    assert!(raw.contains(&model.as_bytes().as_ptr()), "a string was copied");
    drop(job);
    assert!(fields.as_str().contains("vendor_name"), "the slice does not keep the body");
}

#[test]
fn an_event_survives_serde_with_what_is_not_recognised_and_equals_its_body() {
    let body = with_data(r#""type":"extract","status":"completed","result":{"new":[1,2]},"later":true"#);
    let event = read(body.clone()).unwrap();
    let stored = serde_json::to_string(&event).unwrap();
    assert_eq!(stored, body);
    let back: WebhookEvent = serde_json::from_str(&stored).unwrap();
    assert_eq!(back, event);
    let respelled: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(read(serde_json::to_string_pretty(&respelled).unwrap()).unwrap(), event);
    assert_ne!(read(body.replace("[1,2]", "[2,1]")).unwrap(), event);
    assert!(serde_json::from_str::<WebhookEvent>("{}").is_err());
}

#[test]
fn debug_of_a_job_leaves_the_document_out() {
    let event = read(documented("extract_failed")).unwrap();
    assert!(!format!("{:?}", event.job()).contains("processing_error"));
}

#[test]
fn raw_json_gives_members_and_refuses_text_that_is_not_json() {
    let json: RawJson = r#" {"a" : 1, "b\n": null, "c": {"a": 2}} "#.parse().unwrap();
    assert_eq!(json.as_str(), r#"{"a" : 1, "b\n": null, "c": {"a": 2}}"#);
    assert_eq!(json.get::<u8>("a").unwrap(), Some(1));
    assert_eq!(json.get::<Option<u8>>("b\n").unwrap(), Some(None));
    assert_eq!(json.get::<RawJson>("c").unwrap().unwrap().get::<u8>("a").unwrap(), Some(2));
    assert_eq!(json.get::<u8>("d").unwrap(), None);
    assert!(json.get::<String>("a").is_err());
    let list: RawJson = "[1]".parse().unwrap();
    assert_eq!((list.get::<u8>("a").unwrap(), list.parse::<Vec<u8>>().unwrap()), (None, vec![1]));
    assert!("null".parse::<RawJson>().unwrap().is_null());
    assert_eq!("[1, 2]".parse::<RawJson>().unwrap(), "[1,2]".parse::<RawJson>().unwrap());
    assert_ne!("[1, 2]".parse::<RawJson>().unwrap(), "[1, 3]".parse::<RawJson>().unwrap());
    assert!(RawJson::try_from(Bytes::from_static(b"\"\xff\"")).is_err());
    assert_eq!(serde_json::to_string(&json).unwrap(), json.as_str());
    assert!("{".parse::<RawJson>().is_err());
}

#[test]
fn debug_and_errors_tell_the_kind_of_a_value_and_display_the_value() {
    for (text, kind) in [
        (r#"{"a": 1}"#, "object"),
        ("[1]", "array"),
        (r#""a""#, "string"),
        ("true", "boolean"),
        ("false", "boolean"),
        ("null", "null"),
        ("-1.5", "number"),
    ] {
        let value: RawJson = text.parse().unwrap();
        assert_eq!(format!("{value:?}"), format!("RawJson({kind}, {} bytes)", text.len()));
        assert_eq!(value.to_string(), text);
    }
    let problem = |text: &str| text.parse::<RawJson>().unwrap().parse::<i8>().unwrap_err().to_string();
    assert!(problem("true").contains("the value has another shape"), "{}", problem("true"));
    assert!(problem("1e999").contains("cannot hold the number"), "{}", problem("1e999"));
}

#[test]
fn debug_tells_the_length_of_a_text_instead_of_the_text() {
    let error = JobError { code: Some("E1".into()), message: None };
    assert_eq!(format!("{error:?}"), "JobError { code: Some(2 bytes), message: None }");
}
