//! Job ids: the same texts are accepted as by the model, every text is kept, and two ids are equal if their texts are. The
//! input is two texts with a line end between them.
#![no_main]

use std::cmp::Ordering;
use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use qomplement_webhooks::JobId;
use qomplement_webhooks_fuzz::model::is_job_id;

fn parsed(text: &str) -> Option<JobId> {
    let id = text.parse::<JobId>().ok();
    assert_eq!(id.is_some(), is_job_id(text));
    let id = id?;
    assert_eq!(&*id.as_str(), text);
    assert_eq!(id.to_string(), text);
    assert!(id == *text);
    Some(id)
}

fuzz_target!(|input: &str| {
    let (one, other) = input.split_once('\n').unwrap_or((input, input));
    let (Some(first), Some(second)) = (parsed(one), parsed(other)) else { return };
    assert_eq!(first == second, one == other);
    assert_eq!(first.cmp(&second) == Ordering::Equal, one == other);
    assert_eq!(first.cmp(&second), second.cmp(&first).reverse());
    let json = serde_json::to_string(&first).unwrap();
    assert_eq!(serde_json::from_str::<JobId>(&json).unwrap(), first);
    assert_eq!(HashSet::from([first, second]).len(), if one == other { 1 } else { 2 });
});
