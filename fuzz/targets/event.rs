//! A body to an event: the same bodies are accepted, with the same values, as by the model; and the model reads JSON as
//! serde_json's `Value` does.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use qomplement_webhooks::WebhookEvent;
use qomplement_webhooks_fuzz::{model, tree};
use serde_json::Value;

fuzz_target!(|body: &[u8]| {
    let event = WebhookEvent::try_from(Bytes::copy_from_slice(body));
    match (&event, model::body(body)) {
        (Ok(event), Ok((root, envelope))) => {
            assert_eq!(event.job().raw(), body);
            model::check_event(event, &root, &envelope);
        }
        (Err(error), Err(refusal)) => model::check_refusal(error, &refusal),
        (event, model) => panic!("{event:?}, and the model says {model:?}"),
    }
    if let Ok(value) = serde_json::from_slice::<Value>(body) {
        let node = tree::read_bytes(body);
        assert!(node.is_some_and(|node| node.is(&value)), "the model does not read JSON as serde_json does");
    }
});
