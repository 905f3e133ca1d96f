//! An envelope is parsed from the same bodies as an event, with the same members and the same errors.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use qomplement_webhooks::WebhookEvent;
use qomplement_webhooks::event::Envelope;

fuzz_target!(|body: &[u8]| {
    let body = Bytes::copy_from_slice(body);
    match (Envelope::try_from(body.clone()), WebhookEvent::try_from(body.clone())) {
        (Ok(envelope), Ok(event)) => {
            let job = event.job();
            assert_eq!(envelope.job(), job.id());
            assert_eq!(envelope.job_type(), job.job_type());
            assert_eq!(envelope.status(), job.status());
            assert_eq!((envelope.body(), job.raw()), (&body, &body));
        }
        (Err(one), Err(other)) => assert_eq!(format!("{one:?}"), format!("{other:?}")),
        (envelope, event) => panic!("{envelope:?} and {event:?}"),
    }
});
